"""Metrics modelled on the eye: visible difference (Qcv) and kept contrast (Qcb)."""

from math import exp, inf, pi
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from clipfuse.metrics.definition import metric
from clipfuse.metrics.gradients import Border, edge_strength
from clipfuse.metrics.sharing import shared
from clipfuse.metrics.windows import Taps, filter_valid

Stretch = Literal["none", "exact", "rounded"]

BLOCK = 16
REACH = 15
DEGREES = 4.0  # how wide and high Qcv's image is to the eye, whatever its size; that of the paper is unknown


@metric("Qcv", higher_is_better=False, bounds=(0, inf), smallest=BLOCK)
def qcv(
    fused: Tensor,
    infrared: Tensor,
    visible: Tensor,
    *,
    stretch: Stretch = "none",
    border: Border = "mirror",
    blocks: Literal["partial", "padded"] = "partial",
    csf_slope: float = 0.114,
) -> Tensor:
    """Qcv: what the eye sees of the difference to the sources, at their edges (Chen and Varshney, 2007).

    S - F, for each source S, is filtered by the eye's contrast sensitivity at r cycles per degree
    (Mannos and Sakrison, 1974), 2.6 (0.0192 + 0.114 r) exp(-(0.114 r)^1.1), periodically. In each block
    of 16x16 pixels D_S is its mean square, and w_S the sum over the block of the fifth power of S's
    Sobel gradient; the score is sum(w_I D_I + w_V D_V) / sum(w_I + w_V) over blocks.

    Not checked against the paper: its abstract filters region by region; the code of the toolkits,
    as this one, the whole difference. That code also stretches each image, frames it by
    zeros, which at the fifth power outweigh every edge inside, and has 0.144 for Mannos and Sakrison's
    0.114; its options are stretch "rounded", border "zero", blocks "padded" and csf_slope 0.144.

    Keyword Args:
        stretch: of each image to 0..255 by its least and largest value: "none", "exact", or "rounded"
            to whole numbers. A constant image becomes black.
        border: values around the image for its gradient: a "mirror", or "zero".
        blocks: at the right and lower edge, where no whole block is left: a "partial" block counts
            with the pixels it has; "padded" takes its mean over 256 pixels all the same.
        csf_slope: the 0.114 of the sensitivity.

    Returns:
        (N,), at least 0; lower is better, 0 if all three are equal. Where both sources are flat all
        blocks weigh the same.
    """
    fused, infrared, visible = (_stretched(plane, stretch) for plane in (fused, infrared, visible))
    radius = _radius(fused, DEGREES)
    csf = 2.6 * (0.0192 + csf_slope * radius) * torch.exp(-((csf_slope * radius) ** 1.1))
    seen, total = fused.new_zeros(len(fused)), fused.new_zeros(len(fused))
    for source in (infrared, visible):
        difference = _filtered(source - fused, csf).square()
        count = BLOCK**2 if blocks == "padded" else None
        error = avg_pool2d(difference, BLOCK, ceil_mode=True, divisor_override=count)
        weight = _saliency(source, border)
        seen = seen + (weight * error).sum((1, 2, 3))
        total = total + weight.sum((1, 2, 3))
    return seen / total


@metric("Qcb", higher_is_better=True, bounds=(0, 1))
def qcb(
    fused: Tensor,
    infrared: Tensor,
    visible: Tensor,
    *,
    stretch: Stretch = "none",
    frequency: Literal["freqspace", "fftfreq"] = "freqspace",
    normalise: bool = True,
) -> Tensor:
    """Qcb: how well the local contrast that the eye sees in the sources is kept (Chen and Blum, 2009).

    Each image is filtered by the sensitivity exp(-(r / 15.3870)^2) - 0.7622 exp(-(r / 1.3456)^2) at r
    cycles per degree, periodically. Its contrast is C = |mean_2 / mean_4 - 1|, of the Gaussian means
    of deviation 2 and 4 px, 31x31 taps, and after masking C' = C^3 / (C^2 + 0.0001). At each pixel the
    smaller over the larger of C'_S and C'_F, for each source S, is weighted by C'_S^2 / (C'_I^2 + C'_V^2);
    the score is the mean over pixels.

    Where a mean_4 is within 1e-6 of 0, as in a black image, the contrast is taken as 0, and 1e-20 is
    added to every C', so that 0/0 counts as kept and rounding errors do not count.

    Keyword Args:
        stretch: of each image to 0..255, as in `qcv`: "none", "exact" or "rounded".
            It moves black, and so every contrast; toolkits do it.
        frequency: r is the cycles per height or width over 15 ("freqspace", the usual code: the image
            is fifteen degrees wide and high, whatever its size) or over 30 ("fftfreq", a port of it).
        normalise: the Gaussian means are those of the pixels inside the image. Without, as in the
            usual code, zeros around it enter, and its border is a contrast.

    Returns:
        (N,) in [0, 1]; higher is better, 1 if all three are equal.
    """
    degrees = 15.0 if frequency == "freqspace" else 30.0
    f, i, v = (
        _masked_contrast(_stretched(plane, stretch), degrees, normalise)
        for plane in (fused, infrared, visible)
    )
    of_infrared = torch.minimum(i, f) / torch.maximum(i, f)
    of_visible = torch.minimum(v, f) / torch.maximum(v, f)
    weight = 1 / (1 + (v / i).square())
    return torch.lerp(of_visible, of_infrared, weight).mean((1, 2, 3))


@shared
def _masked_contrast(plane: Tensor, degrees: float, normalise: bool) -> Tensor:
    radius = _radius(plane, degrees).square()
    seen = _filtered(plane, torch.exp(-radius / 15.3870**2) - 0.7622 * torch.exp(-radius / 1.3456**2))
    fine, coarse = (_gaussian_mean(seen, sigma, normalise) for sigma in (2.0, 4.0))
    lit = coarse.abs() > 1e-6
    contrast = torch.where(lit, fine / torch.where(lit, coarse, 1) - 1, 0).abs()
    square = contrast.square()
    return contrast * square / (square + 1e-4) + 1e-20


def _gaussian_mean(plane: Tensor, sigma: float, normalise: bool) -> Tensor:
    taps = _gaussian_taps(sigma)
    mean = filter_valid(pad(plane, (REACH,) * 4), taps)
    if not normalise:
        return mean
    height, width = plane.shape[2:]
    down, across = (_weight_inside(plane.new_ones(1, 1, side, 1), taps) for side in (height, width))
    return mean / (down * across.mT)


def _weight_inside(column: Tensor, taps: Taps) -> Tensor:
    return filter_valid(pad(column, (0, 0, REACH, REACH)), taps, (1.0,))


def _gaussian_taps(sigma: float) -> Taps:
    # Samples, not scaled to sum 1: cut off at 15 px, those for 4 px add up to a little less.
    return tuple(exp(-((x / sigma) ** 2) / 2) / (sigma * (2 * pi) ** 0.5) for x in range(-REACH, REACH + 1))


@shared
def _saliency(plane: Tensor, border: Border) -> Tensor:
    gradient = edge_strength(plane, border)
    fifth = gradient.square().square() * gradient
    # The addend makes flat sources weigh the same everywhere, and is lost in any other weight.
    return avg_pool2d(fifth, BLOCK, ceil_mode=True, divisor_override=1) + 1e-30


def _filtered(plane: Tensor, response: Tensor) -> Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(plane) * response, s=plane.shape[-2:])


def _radius(plane: Tensor, degrees: float) -> Tensor:
    """Return cycles per degree at each of rfft2's frequencies, (H, W // 2 + 1)."""
    height, width = plane.shape[-2:]
    kind = {"dtype": plane.dtype, "device": plane.device}
    down = torch.fft.fftfreq(height, 1 / height, **kind)
    along = torch.fft.rfftfreq(width, 1 / width, **kind)
    return torch.hypot(down[:, None], along) / degrees


@shared
def _stretched(plane: Tensor, how: Stretch) -> Tensor:
    if how == "none":
        return plane
    low, high = plane.amin((2, 3), keepdim=True), plane.amax((2, 3), keepdim=True)
    plane = torch.where(high > low, (plane - low) / torch.where(high > low, high - low, 1) * 255, 0)
    return (plane + 0.5).floor() if how == "rounded" else plane
