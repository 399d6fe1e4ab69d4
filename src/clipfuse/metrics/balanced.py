"""Metrics of the content kept from both bands, which a copy, a stretch or noise does not raise (own design).

Toolkits add the bands' scores, so that a copy of one band does well, and count contrast as a gain, so that a
stretch, a sharpening or noise does. Here:

- each band counts only where it is the stronger one, as no fusion can show both fully in one place;
- the fused image is compared with the band itself, so that too much is as wrong as too little;
- the bands' scores a, b in [0, 1] become one by their mean of power -2, sqrt(2 / (1 / a^2 + 1 / b^2)). It
  lies near the smaller, yet a loss in the other still counts. If a band is nowhere the stronger one, the
  other's score counts alone; if both bands are flat, the metric is not defined.

Ties go to the infrared band. The verdict set made of them: `clipfuse.metrics.verdict`.
"""

import torch
from torch import Tensor
from torch.nn.functional import hardshrink, interpolate, pad, threshold

from clipfuse.metrics.definition import metric
from clipfuse.metrics.gradients import sobel
from clipfuse.metrics.safe import ratio
from clipfuse.metrics.sharing import shared
from clipfuse.metrics.structure import covariance, halved, moments
from clipfuse.metrics.visibility import targets_and_rings
from clipfuse.metrics.windows import filter_valid, uniform_taps

FLAT = 1e-10  # a variance or a detail below this is a rounding error
SCALES = 3  # of 7x7 windows, and of details
STABLE = (0.03 * 255) ** 2  # SSIM's constant, as a variance: below 8 grey levels little is visible
INVENTED = 1.5  # weight of a detail that neither band has; one that is lost has 1
BASE = 0.3  # weight of a brightness that neither band has


@metric("kept-information", higher_is_better=True, bounds=(0, 1), smallest=25)
def kept_information(fused: Tensor, infrared: Tensor, visible: Tensor) -> Tensor:
    """Information that the fused image carries of each band, poorer band first (own design).

    In each 7x7 window at three scales, halved by 2x2 means, S is the band of the larger variance s. With the
    error e = var(F - S), a visual noise of variance n = (0.03 * 255)^2 and the information of such a channel,

        r = log(1 + s / (e + n)) / log(1 + s / n).

    Unlike VIF the channel has no gain: a wrong contrast is an error. A band's
    score is the geometric mean of r over its windows, weighted by log(1 + s / n), each scale
    as a mean over all windows; geometric, so that an empty half of the image is not outweighed
    by the other half. The bands' scores are joined as in the module's docstring.

    Returns:
        (N,) in [0, 1]; higher is better, 1 for three equal images; NaN where both bands are flat.
    """
    logs = weights = fused.new_zeros(len(fused), 2)
    for ours, warm, seen in zip(*(_levels(plane) for plane in (fused, infrared, visible)), strict=True):
        variance, parts = _stronger_windows(warm, seen)
        whole = (variance / STABLE).log1p()
        kept = (variance / (_differences(ours, warm, seen) + STABLE)).log1p_()
        share = torch.where(whole > 0, kept / torch.where(whole > 0, whole, 1), 1)
        pixels = whole[0].numel()
        logs = logs + _sums(share.log() * whole, parts) / pixels
        weights = weights + _sums(whole, parts) / pixels
    return _joined(ratio(logs, weights).exp(), weights)


@metric("kept-structure", higher_is_better=True, bounds=(0, 1), smallest=7)
def kept_structure(fused: Tensor, infrared: Tensor, visible: Tensor) -> Tensor:
    """SSIM's contrast and structure with each band where it is the stronger, poorer band first (own design).

    In each 7x7 window S is the band of the larger variance. A band's score is the mean over its windows of
    (2 cov(F, S) + c) / (var F + var S + c), weighted by var S / (var S + c), and 0 where that is negative;
    c = (0.03 * 255)^2. The bands' scores are joined as in the module's docstring.

    Returns:
        (N,) in [0, 1]; higher is better, 1 for three equal images; NaN where both bands are flat.
    """
    variance, parts = _stronger_windows(infrared, visible)
    weight = variance / (variance + STABLE)
    both = (moments(fused, "uniform").variance + variance).add_(STABLE)
    alike = 1 - _differences(fused, infrared, visible) / both
    weights = _sums(weight, parts)
    return _joined(ratio(_sums(alike * weight, parts), weights).clamp_min(0), weights)


@metric("local-detail", higher_is_better=True, bounds=(0, 1), smallest=3)
def local_detail(
    fused: Tensor, infrared: Tensor, visible: Tensor, *, target_mask: Tensor | None = None
) -> Tensor:
    """Nearness of the fused gradients to those of the locally stronger band, outside of targets (own design).

    At each pixel S is the band with more squared gradient in the 5x5 window around it. A band's score is E /
    (E + sum |grad F - grad S|^2) over its pixels, E = sum |grad S|^2; gradients are Sobel's, as vectors,
    mirrored at the border. The bands' scores are joined as in the module's docstring. The error is convex in
    the fused image and noise has no direction, so noise of mean 0 raises the expected error whatever it is
    added to; sharpening pays from where the fused gradients pass the band's.

    Keyword Args:
        target_mask: (N, 1, H, W) bool, True on targets; None counts all pixels.

    Returns:
        (N,) in [0, 1]; higher is better, 1 for three equal images; NaN where the bands are flat.
    """
    error, energy, parts = _gradient_error(fused, infrared, visible)
    if target_mask is not None:
        error, energy = (torch.where(target_mask, 0, plane) for plane in (error, energy))
    weights = _sums(energy, parts)
    return _joined(ratio(weights, weights + _sums(error, parts)), weights)


@metric("clean-detail", higher_is_better=True, bounds=(0, 1), smallest=8)
def clean_detail(fused: Tensor, infrared: Tensor, visible: Tensor) -> Tensor:
    """Detail of the bands over the same and what is invented or lost, poorer band first (own design).

    Details d are those of three scales: a plane less its 2x2 means, enlarged bilinearly. S is the band of the
    greater |d| at each place. Detail outside of the span of 0, d_I and d_V is invented; detail missing inside
    of it up to d_S is lost. A band's score is D / (D + 1.5 invented + lost + 0.15 base), sums over the scales
    of means over the image, D of |d_S|; base is the mean by which the fused 8x8 means lie outside of the span
    of the bands'. The bands' scores are joined as in the module's docstring. It falls with overshoot, halos,
    ringing, block edges, noise, and a brightness that no band has.

    Returns:
        (N,) in [0, 1]; higher is better, 1 for three equal images; NaN where both bands are flat.
    """
    (ours, base), (warm, warm_base), (seen, seen_base) = (
        _details(plane) for plane in (fused, infrared, visible)
    )
    span = torch.minimum(warm_base, seen_base), torch.maximum(warm_base, seen_base)
    foreign = _outside(base, *span).mean((1, 2, 3))
    errors = weights = fused.new_zeros(len(fused), 2)
    for detail, first, second in zip(ours, warm, seen, strict=True):
        stronger, low, high, parts = _stronger_details(first, second)
        error = (detail - stronger).abs().add_(_outside(detail, low, high), alpha=INVENTED - 1)
        errors = errors + _sums(error, parts) / error[0].numel()
        weights = weights + _sums(stronger.abs(), parts) / error[0].numel()
    return _joined(ratio(weights, weights + errors + BASE / 2 * foreign[:, None]), weights)


@metric("kept-targets", higher_is_better=True, bounds=(0, 1), smallest=3)
def kept_targets(fused: Tensor, infrared: Tensor, visible: Tensor, *, target_mask: Tensor) -> Tensor:
    """How targets stand out as in the infrared band, with the visible detail there (own design).

    A region is a target (8-connected part of the mask) with its ring, the pixels at most 7 px away and in no
    target. The infrared score is the mean over regions of (2 cov(F, I) + c) / (var F + var I + c) inside
    of the region, c = (0.03 * 255)^2, 0 where that is negative: it has its largest value at the infrared
    band's own contrast, not beyond. The visible score is that of `local_detail` over all regions. They are
    joined as in the module's docstring.

    Keyword Args:
        target_mask: (N, 1, H, W) bool, True on targets.

    Returns:
        (N,) in [0, 1]; higher is better, 1 for three equal images; NaN where no target has a ring.
    """
    error, energy, parts = _gradient_error(fused, infrared, visible)
    joined = []
    for image, targets in enumerate(targets_and_rings(target_mask)):
        alike, near = [], torch.zeros_like(target_mask[image, 0])
        for place, target, ring in targets:
            region = target | ring
            near[place] |= region
            f, i = (plane[image, 0][place][region] for plane in (fused, infrared))
            f, i = f - f.mean(), i - i.mean()
            alike.append((2 * (f * i).mean() + STABLE) / ((f * f).mean() + (i * i).mean() + STABLE))
        if not alike:
            joined.append(fused.new_full((), torch.nan))
            continue
        seen = near.flatten() * parts[image, :, 1]
        whole, lost = (plane[image].flatten() @ seen for plane in (energy, error))
        warm = torch.stack(alike).clamp_min(0).mean()
        scores = torch.stack([warm, ratio(whole, whole + lost)])
        joined.append(_joined(scores, torch.stack([torch.ones_like(whole), whole])))
    return torch.stack(joined) if joined else fused.new_zeros(0)


def _joined(scores: Tensor, weights: Tensor) -> Tensor:
    """Join two bands' scores, (..., 2), by their mean of power -2; those of no weight do not count."""
    (first, second), (has_first, has_second) = scores.unbind(-1), (weights > 0).unbind(-1)
    first, second = torch.where(has_first, first, second), torch.where(has_second, second, first)
    squares = (first.square() + second.square()).clamp_min(1e-30)
    joined = (first * second * (2 / squares).sqrt()).clamp_max(1)  # rounding can pass 1
    return torch.where(has_first | has_second, joined, torch.nan)


def _parts(here: Tensor, like: Tensor) -> Tensor:
    """Return 1 for the band that a pixel belongs to, infrared first, 0 for the other, (N, pixels, 2)."""
    here = here.flatten(1)
    return torch.stack([here, ~here], 2).to(like.dtype)


def _sums(plane: Tensor, parts: Tensor) -> Tensor:
    """Return the sums over each band's pixels, (N, 2)."""
    return torch.bmm(plane.flatten(1)[:, None], parts)[:, 0]


def _levels(plane: Tensor) -> list[Tensor]:
    levels = [plane]
    while len(levels) < SCALES:
        levels.append(halved(levels[-1], "repeat"))
    return levels


@shared
def _stronger_windows(infrared: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Return the larger variance of the bands in each 7x7 window, and which band has it; see `_parts`."""
    warm, seen = (moments(plane, "uniform").variance for plane in (infrared, visible))
    return threshold(torch.maximum(warm, seen), FLAT, 0), _parts(warm >= seen, warm)


@shared
def _differences(fused: Tensor, infrared: Tensor, visible: Tensor) -> Tensor:
    """Return the variance of F - S in each 7x7 window, S the band of the larger variance."""
    warm, seen = (moments(plane, "uniform").variance for plane in (infrared, visible))
    both = torch.where(
        warm >= seen,
        covariance(fused, infrared, "uniform"),
        covariance(fused, visible, "uniform"),
    )
    variances = moments(fused, "uniform").variance + torch.maximum(warm, seen)
    return variances.sub_(both, alpha=2 * 49 / 48).clamp_min(0)


@shared
def _gradient_error(fused: Tensor, infrared: Tensor, visible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return |grad F - grad S|^2 and |grad S|^2 at each pixel, and which band S is; see `_parts`."""
    (x, y), (along_x, along_y, energy, parts) = sobel(fused, "mirror"), _stronger_gradient(infrared, visible)
    return (x - along_x).square() + (y - along_y).square(), energy, parts


@shared
def _stronger_gradient(infrared: Tensor, visible: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradient of the band with more of it around a pixel, its square, and whose it is."""
    gradients = [sobel(plane, "mirror") for plane in (infrared, visible)]
    squares = [x.square() + y.square() for x, y in gradients]
    warm, seen = (
        filter_valid(pad(plane.detach(), (2, 2, 2, 2), mode="replicate"), uniform_taps(5))
        for plane in squares
    )
    here = warm >= seen
    x, y = (torch.where(here, first, second) for first, second in zip(*gradients, strict=True))
    return x, y, torch.where(here, squares[0], squares[1]), _parts(here, squares[0])


@shared
def _details(plane: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the details of three scales, fine to coarse, and the 8x8 means."""
    details = []
    for _ in range(SCALES):
        small = halved(plane, "repeat")
        details.append(plane - interpolate(small, plane.shape[2:], mode="bilinear", align_corners=False))
        plane = small
    return details, plane


@shared
def _stronger_details(infrared: Tensor, visible: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the greater detail, the least and greatest of both and 0, and its band; see `_parts`."""
    here = infrared.abs() >= visible.abs()
    low, high = torch.minimum(infrared, visible).clamp_max(0), torch.maximum(infrared, visible).clamp_min(0)
    stronger = hardshrink(torch.where(here, infrared, visible), FLAT)
    return stronger, low, high, _parts(here, infrared)


def _outside(plane: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return by how much a plane lies outside of a span."""
    return (plane - high).clamp_min(0).add_((low - plane).clamp_min(0))
