"""FMI: mutual information of local features of the fused image and its sources, window by window."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from clipfuse.metrics.definition import metric
from clipfuse.metrics.safe import ratio

Feature = Literal["pixel", "gradient"]

WINDOW = 3  # side of the windows in pixels
# Cells of all joint tables computed at a time: a few MB, which a processor's cache holds.
_CELLS = 2**18


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
        (N,) in [0, 1], computed in float64; higher is better, 1 if all three are equal. A
        constant fused image scores the share of its sources' windows that are flat. An inversion of
        the fused image lowers the score only in part. No gradient.
    """
    return _score((fused, infrared, visible), "pixel")


@metric("FMI-gradient", higher_is_better=True, bounds=(0, 1), smallest=3)
def fmi_gradient(fused: Tensor, infrared: Tensor, visible: Tensor) -> Tensor:
    """FMI of gradient magnitudes; all else as in `fmi_pixel`.

    Returns:
        (N,) in [0, 1]; higher is better, 1 if all three are equal; an inversion leaves it as it is.
    """
    return _score((fused, infrared, visible), "gradient")


def gradient_magnitude(plane: Tensor) -> Tensor:
    """Return sqrt(gx^2 + gy^2), central differences, one-sided at the border; the shape of `plane`."""
    return torch.stack(torch.gradient(plane, dim=(2, 3))).square().sum(0).sqrt()


_FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "pixel": lambda plane: plane,
    "gradient": gradient_magnitude,
}


class _Patches(NamedTuple):
    """M windows of K positions each: (K, M) marginals, and what (M,) the joint distribution needs of them."""

    share: Tensor
    flat: Tensor
    entropy: Tensor
    contrast: Tensor
    spread: Tensor


def _score(planes: Sequence[Tensor], feature: Feature) -> Tensor:
    count, _, height, width = planes[0].shape
    device = planes[0].device
    features = torch.stack([_FEATURES[feature](plane.detach().double()).flatten() for plane in planes])
    pixels = torch.arange(features.shape[1], device=device).view(count, height, width)
    corners = pixels[:, : height - WINDOW + 1, : width - WINDOW + 1]
    steps = torch.arange(WINDOW, device=device)
    positions = (steps.unsqueeze(1) * width + steps).view(-1, 1)
    scores = []
    for corner in corners.flatten().split(max(1, _CELLS // WINDOW**4)):
        fused, infrared, visible = map(_patches, features[:, positions + corner])
        scores.append((_agreement(fused, infrared) + _agreement(fused, visible)) / 2)
    return torch.cat(scores).view(corners.shape).mean((1, 2)).to(planes[0].dtype)


def _patches(values: Tensor) -> _Patches:
    size = len(values)
    values = values - values.amin(0)
    total = values.sum(0)
    flat = total == 0
    share = torch.where(flat, 1 / size, values / torch.where(flat, 1, total))
    ranks = torch.arange(size, dtype=values.dtype, device=values.device).unsqueeze(1)
    spread = (ranks.square() * share).sum(0) - (ranks * share).sum(0).square()
    contrast = torch.where(flat, 0, share.square().sum(0) - 1 / size)
    return _Patches(share, flat, _entropy(share), contrast, spread)


def _agreement(x: _Patches, y: _Patches) -> Tensor:
    size = len(x.share)
    overlap = (x.share * y.share).sum(0)
    covariance = overlap - 1 / size
    # The lower bound is the upper one with y's positions reversed: information does not depend on their
    # order.
    partner = torch.where(covariance < 0, y.share.flip(0), y.share)
    below, above = _cumulative(x.share).unsqueeze(1), _cumulative(partner).unsqueeze(0)
    least = torch.minimum(below[1:], above[:, 1:])
    bound = least.sum((0, 1)) - below.sum((0, 1)) * above.sum((0, 1))
    correlation = ratio(covariance.abs(), (x.contrast * y.contrast).sqrt())
    mixture = ratio(correlation * (x.spread * y.spread).sqrt(), bound).clamp_max(1)
    joint = (least - torch.maximum(below[:-1], above[:, :-1])).clamp_min_(0)
    joint.mul_(mixture).addcmul_((x.share * (1 - mixture)).unsqueeze(1), partner)
    entropies = x.entropy + y.entropy
    information = entropies - _entropy(joint.flatten(0, 1))
    score = torch.where(entropies > 0, ratio(2 * information, entropies).clamp(0, 1), overlap)
    return torch.where(x.flat & y.flat, 1, score)


def _cumulative(share: Tensor) -> Tensor:
    return pad(share.cumsum(0), (0, 0, 1, 0))


def _entropy(share: Tensor) -> Tensor:
    return -share.clamp_min(1e-300).log_().mul_(share).sum(0)
