"""Metrics of structural similarity."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from clipfuse.metrics.definition import check_side, metric
from clipfuse.metrics.sharing import shared
from clipfuse.metrics.windows import Taps, filter_valid, gaussian_taps, uniform_taps

Window = Literal["uniform", "gaussian"]

# Taps, and the factor that makes a variance the sample variance.
WINDOWS: dict[str, tuple[Taps, float]] = {
    "uniform": (uniform_taps(7), 49 / 48),
    "gaussian": (gaussian_taps(11, 1.5), 1.0),
}
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


class Moments(NamedTuple):
    """Local moments of a plane, `centred` on its own mean, the `offset`."""

    centred: Tensor
    offset: Tensor
    mean: Tensor
    variance: Tensor


@metric("SSIM", higher_is_better=True, bounds=(-2, 2), smallest=7)
def ssim(
    fused: Tensor,
    infrared: Tensor,
    visible: Tensor,
    *,
    window: Window = "uniform",
    dynamic_range: float = 255.0,
) -> Tensor:
    """SSIM: SSIM(F, I) + SSIM(F, V) (Wang et al., IEEE TIP 2004), mean over windows.

    The default is scikit-image's: a uniform 7x7 window and sample covariances, as the published
    fusion tables are computed. "gaussian" is the paper's window, 11x11 of deviation 1.5, and equals
    kornia's value (torchmetrics' mean covers a reflected border too); both take many times as long
    in float64, and filter the fused image once per source.

    Keyword Args:
        window: "uniform" or "gaussian".
        dynamic_range: what the two constants are fractions of. 255 is right for these images; toolkits
            that hand float images to a library whose default is 1 or 2 print far lower values.

    Returns:
        (N,) in [-2, 2]; higher is better, 2 if all three are equal.

    Raises:
        ValueError: see `metric`; sides below 11 px with the Gaussian window are too small as well.
    """
    taps, _ = WINDOWS[window]
    check_side(fused, len(taps), f" for the {window} window")
    of_infrared, _ = _similarity(fused, infrared, window, dynamic_range)
    of_visible, _ = _similarity(fused, visible, window, dynamic_range)
    return of_infrared + of_visible


@metric("MS-SSIM", higher_is_better=True, bounds=(0, 2), smallest=161)
def ms_ssim(
    fused: Tensor,
    infrared: Tensor,
    visible: Tensor,
    *,
    dynamic_range: float = 255.0,
    odd_sides: Literal["repeat", "zero"] = "repeat",
) -> Tensor:
    """MS-SSIM: the sum over both sources of multi-scale SSIM (Wang, Simoncelli and Bovik, 2003).

    Five scales, halved by 2x2 means; at each the mean of contrast times structure, at the last the
    mean SSIM, all with the Gaussian window 11 of deviation 1.5 inside the image; each to the power of
    its weight, multiplied. A negative mean has no such power: it counts as 0, and so does the
    source's term. torchmetrics with `normalize="relu"` differs in the last scale, where its mean
    covers a reflected border, and in odd sides, of which it drops a row or column.

    Keyword Args:
        dynamic_range: as `ssim`.
        odd_sides: before an odd side is halved its last row or column is repeated, as in Wang's own
            program, or ("zero") a black one is put before the first, as in IVIF_ZOO's.

    Returns:
        (N,) in [0, 2]; higher is better, 2 if all three are equal.
    """
    of_infrared = _multi_scale(fused, infrared, dynamic_range, odd_sides)
    return of_infrared + _multi_scale(fused, visible, dynamic_range, odd_sides)


def _multi_scale(fused: Tensor, source: Tensor, dynamic_range: float, odd_sides: str) -> Tensor:
    score = fused.new_ones(fused.shape[0])
    for index, weight in enumerate(WEIGHTS):
        if index:
            fused, source = halved(fused, odd_sides), halved(source, odd_sides)
        similarity, contrast = _similarity(fused, source, "gaussian", dynamic_range)
        mean = similarity if index == len(WEIGHTS) - 1 else contrast
        positive = mean > 0
        # The inner `where` keeps the infinite slope of a power at 0 out of the gradient.
        score = score * torch.where(positive, torch.where(positive, mean, 1) ** weight, 0)
    return score


@shared
def _similarity(fused: Tensor, source: Tensor, window: Window, dynamic_range: float) -> tuple[Tensor, Tensor]:
    """Return the means over the image of SSIM and of its contrast and structure factor, each (N,)."""
    # Planes of this size cost more to allocate than to compute: where it can be, it is done in place.
    _, correction = WINDOWS[window]
    x, y = moments(fused, window), moments(source, window)
    c1, c2 = (0.01 * dynamic_range) ** 2, (0.03 * dynamic_range) ** 2
    both = covariance(fused, source, window)
    contrast = both.mul(2 * correction).add_(c2) / (x.variance + y.variance).add_(c2)
    x_mean, y_mean = x.mean + x.offset, y.mean + y.offset
    product = (x_mean * y_mean).mul_(2).add_(c1)
    squares = x_mean.square().addcmul_(y_mean, y_mean).add_(c1)
    return (product / squares * contrast).mean((1, 2, 3)), contrast.mean((1, 2, 3))


@shared
def covariance(fused: Tensor, source: Tensor, window: Window) -> Tensor:
    """Return the covariance in each window, as a population's: times the window's factor it is a sample's."""
    taps, _ = WINDOWS[window]
    x, y = moments(fused, window), moments(source, window)
    return filter_valid(x.centred * y.centred, taps).addcmul_(x.mean, y.mean, value=-1)


@shared
def moments(plane: Tensor, window: Window) -> Moments:
    """Return mean and variance in each window."""
    taps, correction = WINDOWS[window]
    # Variances are differences of squares: without the plane's mean they lose fewer digits.
    offset = plane.detach().mean((2, 3), keepdim=True)
    centred = plane - offset
    mean = filter_valid(centred, taps)
    variance = filter_valid(centred.square(), taps).addcmul_(mean, mean, value=-1).mul_(correction)
    return Moments(centred, offset, mean, variance)


@shared
def halved(plane: Tensor, odd_sides: str) -> Tensor:
    """Return the 2x2 means; see `ms_ssim` for odd sides."""
    down, across = plane.shape[2] % 2, plane.shape[3] % 2
    if down or across:
        if odd_sides == "zero":
            plane = pad(plane, (across, 0, down, 0))
        else:
            plane = pad(plane, (0, across, 0, down), mode="replicate")
    return avg_pool2d(plane, 2)
