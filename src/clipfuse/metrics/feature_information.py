"""FMI: mutual information of local features of the fused image and its sources, window by window."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from clipfuse.metrics.definition import metric
from clipfuse.metrics.sharing import shared

Feature = Literal["pixel", "gradient"]

WINDOW = 3  # side of the windows in pixels
WINDOWS = 6000  # computed at a time on a processor: some 5 MB, which its cache holds
LAST = WINDOW**2 - 1
ONE = 2**29 - 1  # the share 1 in whole numbers; twice that and a mark are no more than `MOST` / 2
END = 2 * ONE + 1
MOST = 2**31 - 1


@metric("FMI-pixel", higher_is_better=True, bounds=(0, 1), smallest=3)
def fmi_pixel(fused: Tensor, infrared: Tensor, visible: Tensor) -> Tensor:
    """FMI of raw pixels (Haghighat et al., Comput. Electr. Eng. 2011; 3 x 3 windows: Fast-FMI, AICT 2014).

    After the papers' descriptions (not checked against their program): in each window, the features of source
    and fused image, scaled to sum 1, are two marginal distributions over the window's positions, in raster
    order. Their joint distribution is that of Nelsen (1987) with the correlation of the two: a mixture of
    independence and of the Frechet-Hoeffding bound, the upper one for a positive, the lower one for a
    negative correlation.
    The score is 2 MI / (H_source + H_fused), averaged over all windows, then over both sources.

    Our choice, where the description leaves it open: the window's least value is taken off before scaling,
    so that brightness does not count; the correlation is Pearson's, of the feature values; where it exceeds
    what the bound can have, the bound itself is taken; windows lie wholly in the image. A window flat in
    both images scores 1, flat in one of them 0; where both hold one single peak, at the same position 1,
    else 0.

    Returns:
        (N,) in [0, 1]; higher is better, 1 if all three are equal. A constant fused image scores the share
        of its sources' windows that are flat. An inversion of the fused image lowers the score only in part.
        The joint distribution is computed in float32, from shares of 30 bits: a window's score is within
        1e-6 of that in float64, the mean over an image within 1e-7. No gradient.
    """
    return _score((fused, infrared, visible), "pixel")


@metric("FMI-gradient", higher_is_better=True, bounds=(0, 1), smallest=3)
def fmi_gradient(fused: Tensor, infrared: Tensor, visible: Tensor) -> Tensor:
    """FMI of gradient magnitudes; all else as in `fmi_pixel`.

    Returns:
        (N,) in [0, 1]; higher is better, 1 if all three are equal; an inversion leaves it as it is.
    """
    return _score((fused, infrared, visible), "gradient")


@shared
def gradient_magnitude(plane: Tensor) -> Tensor:
    """Return sqrt(gx^2 + gy^2), central differences, one-sided at the border; the shape of `plane`."""
    return torch.stack(torch.gradient(plane, dim=(2, 3))).square().sum(0).sqrt()


_FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "pixel": lambda plane: plane,
    "gradient": gradient_magnitude,
}


class _Patches(NamedTuple):
    """M windows of K positions each: (K, M) features above the least, and (M,) what each has alone."""

    features: Any
    scale: Any  # what makes the features shares
    flat: Any
    entropy: Any
    contrast: Any
    mean: Any  # and variance, of the position
    variance: Any
    bounds: Any  # (K - 1, M) cumulative shares times `ONE`, int32


def _score(planes: Sequence[Tensor], feature: Feature) -> Tensor:
    kind = planes[0].dtype
    planes = [plane.detach().double() for plane in planes]
    count, _, height, width = planes[0].shape
    down, across = height - WINDOW + 1, width - WINDOW + 1
    features = [_FEATURES[feature](plane)[:, 0] for plane in planes]
    if features[0].device.type != "cpu":
        with features[0].device:
            sums = [_sum(torch, each) for each in zip(*features, strict=True)]
        return (torch.stack(sums) / (down * across) if sums else planes[0].new_zeros(0)).to(kind)
    # On a processor NumPy takes a third of torch's time: its logarithm alone is 3.6 times as fast.
    arrays = [plane.numpy() for plane in features]
    rows = max(1, WINDOWS // across)
    parts = [
        [array[image, top : top + rows + WINDOW - 1] for array in arrays]
        for image in range(count)
        for top in range(0, down, rows)
    ]
    threads = min(torch.get_num_threads(), len(parts))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            sums = list(pool.map(partial(_sum, np), parts))
    else:
        sums = [_sum(np, part) for part in parts]
    scores = torch.tensor(sums, dtype=torch.float64).view(count, -1 if count else 0).sum(1) / (down * across)
    return scores.to(kind)


def _sum(xp: Any, planes: Sequence[Any]) -> Any:
    """Return the sum over the windows of (H, W) features, fused first.

    Args:
        xp: numpy or torch, whichever the planes are of.
        planes: float64.
    """
    fused, *sources = (_patches(xp, plane) for plane in planes)
    # The same order of two images, whichever is the fused one: copies of either band are a tie, to the bit.
    level = planes[0].sum()
    pairs = [
        (fused, source) if level < plane.sum() else (source, fused)
        for plane, source in zip(planes[1:], sources, strict=True)
    ]
    return sum(_agreement(xp, *pair).sum() for pair in pairs) / 2


def _patches(xp: Any, plane: Any) -> _Patches:
    height, width = (side - WINDOW + 1 for side in plane.shape)
    values = xp.empty((LAST + 1, height, width), dtype=xp.float64)
    for index in range(LAST + 1):
        row, column = divmod(index, WINDOW)
        values[index] = plane[row : row + height, column : column + width]
    values = values.reshape(LAST + 1, -1)
    values -= xp.amin(values, 0)
    below = xp.empty_like(values)
    below[0] = values[0]
    for index in range(1, LAST + 1):
        xp.add(below[index - 1], values[index], out=below[index])
    total, below = below[LAST], below[:LAST]
    flat = total == 0
    total = total + flat
    scale = 1 / total
    # Moments of the position by the sums of its distribution function.
    mean = LAST - below.sum(0) * scale
    odd = xp.arange(1, 2 * LAST, 2, dtype=xp.float64)
    square = LAST**2 - xp.einsum("k,km->m", odd, below) * scale
    contrast = xp.einsum("km,km->m", values, values) * (scale * scale) - 1 / (LAST + 1)
    narrow = xp.asarray(values, dtype=xp.float32)
    logs = xp.log(xp.clip(narrow, 1e-30, None))
    entropy = xp.log(total) - xp.asarray(xp.einsum("km,km->m", logs, narrow), dtype=xp.float64) * scale
    below *= scale * ONE
    below += 0.5  # to the nearest: equal bounds of two images stay so
    bounds = xp.asarray(xp.clip(below, 0, ONE), dtype=xp.int32)
    variance = xp.clip(square - mean * mean, 0, None)
    return _Patches(values, scale, flat, entropy, contrast * ~flat, mean, variance, bounds)


def _agreement(xp: Any, x: _Patches, y: _Patches) -> Any:
    """Return the scores of the windows of a source and the fused image, (M,), whichever is x.

    The joint distribution is m B + (1 - m) p q, where B, the upper bound, is not 0 in 2 K - 1 cells alone:
    in the (i, k - i) whose parts [x_i, x_i+1] and [y_j, y_j+1] of the range of shares overlap, one for each
    k. All other cells have (1 - m) p q, whose sum needs none of them. The lower bound is the upper one
    with y's positions reversed: information does not depend on their order.

    Args:
        xp: numpy or torch.
        x: one of them.
        y: the other one.
    """
    overlap = xp.einsum("km,km->m", x.features, y.features) * (x.scale * y.scale)
    covariance = overlap - 1 / (LAST + 1)
    inverted = covariance < 0
    falling = xp.flip(y.bounds, (0,)) * 2 + 1  # bounds of y are odd, those of x even
    turn = falling ^ ((ONE - y.bounds) * 2 + 1)
    turn &= -xp.asarray(inverted, dtype=xp.int32)
    falling ^= turn
    cuts = _merged(xp, x.bounds * 2, falling)
    independent = _products(xp, cuts[1:-1])
    cuts >>= 1
    # As i + j = k, the variance of k gives the covariance of i and j.
    odd = xp.arange(1, 4 * LAST, 2, dtype=xp.float64) / ONE
    square = 4 * LAST**2 - xp.einsum("k,km->m", odd, xp.asarray(cuts[1:-1], dtype=xp.float64))
    mean = x.mean + y.mean + inverted * (LAST - 2 * y.mean)
    bound = (square - mean * mean - x.variance - y.variance) / 2
    norm = xp.sqrt(x.contrast * y.contrast) * bound
    some = norm > 0
    mixture = abs(covariance) * xp.sqrt(x.variance * y.variance) / (norm + ~some) * some
    mixture = xp.clip(mixture, None, 1)
    # From here on nothing is a small difference of large numbers: float32 does.
    rest = xp.asarray(1 - mixture, dtype=xp.float32) + 1e-30
    share = xp.asarray(cuts[1:] - cuts[:-1], dtype=xp.float32)
    share *= xp.asarray(mixture * (END**2 / ONE), dtype=xp.float32)
    share /= independent
    share += rest
    logs = xp.log(share)
    logs *= share
    inside = xp.einsum("km,km->m", logs, independent)
    outside = rest * xp.log(rest) * (float(END) ** 2 - independent.sum(0))
    information = xp.asarray(inside + outside, dtype=xp.float64) / END**2
    entropies = x.entropy + y.entropy
    spread = (x.variance + y.variance) > 0
    score = xp.clip(2 * information / (entropies + ~spread), 0, 1)
    alike = (covariance == x.contrast) & (covariance == y.contrast)
    return xp.where(alike | (x.flat & y.flat), 1, xp.where(spread, score, overlap))


def _merged(xp: Any, rising: Any, falling: Any) -> Any:
    """Return (2 K, M): 0, the bounds of both in rising order, `END`; by a bitonic network (Batcher, 1968)."""
    windows = rising.shape[1]
    cuts, *buffers = (xp.empty((2 * LAST + 2 * (index == 0), windows), dtype=xp.int32) for index in range(3))
    cuts[0], cuts[-1] = 0, END
    xp.minimum(rising, falling, out=buffers[0][:LAST])
    xp.maximum(rising, falling, out=buffers[0][LAST:])
    for step, source, result in ((4, *buffers), (2, *buffers[::-1]), (1, buffers[0], cuts[1:-1])):
        pairs, sorted_pairs = (each.reshape(LAST // step, 2, step, windows) for each in (source, result))
        xp.minimum(pairs[:, 0], pairs[:, 1], out=sorted_pairs[:, 0])
        xp.maximum(pairs[:, 0], pairs[:, 1], out=sorted_pairs[:, 1])
    return cuts


def _products(xp: Any, cuts: Any) -> Any:
    """Return p q of each cell of the upper bound, (2 K - 1, M) times `END`^2, float32, and nowhere 0.

    A cell's p is the next even cut less the last one, its q that of the odd ones.
    """
    count, windows = cuts.shape
    ours = xp.empty((count, 2, windows), dtype=xp.int32)  # all bits set where not
    xp.multiply(cuts & 1, MOST, out=ours[:, 0])
    xp.bitwise_xor(ours[:, 0], MOST, out=ours[:, 1])
    before = cuts[:, None] & ours  # odd, even
    after = cuts[:, None] | ours  # even, odd
    after[-1] = xp.clip(after[-1], None, END)
    for index in range(1, count):
        xp.maximum(before[index - 1], before[index], out=before[index])
        xp.minimum(after[-index], after[-index - 1], out=after[-index - 1])
    shares = xp.empty((count + 1, 2, windows), dtype=xp.float32)
    shares[0] = after[0]
    for side in (0, 1):
        after[1:, side] -= before[:-1, 1 - side]
        shares[count, side] = END - before[-1, 1 - side]
    shares[1:count] = after[1:]
    products = shares[:, 0] * shares[:, 1]
    products += 1e-20
    return products
