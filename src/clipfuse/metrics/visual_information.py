"""Metrics of the visual information that the fused image keeps of its sources."""

from math import log
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, threshold

from clipfuse.metrics.contrast import Arithmetic
from clipfuse.metrics.definition import metric
from clipfuse.metrics.sharing import shared
from clipfuse.metrics.windows import Taps, filter_valid, gaussian_taps

Border = Literal["valid", "zero"]

WINDOWS = (17, 9, 5, 3)  # one per scale; the deviation is a fifth of it
SMALLEST = 41  # below it the last window does not fit into the last scale
NOISE = 2.0  # variance of VIF's visual noise, on the scale of 0..255
BAND_NOISE = 0.005 * 255**2  # that of VIFF
BAND_WEIGHTS = (1 / 2.15, 0.0, 0.15 / 2.15, 1 / 2.15)  # of VIFF's sub-bands, finest first
FLAT = 1e-10  # a local variance below this counts as 0


class Moments(NamedTuple):
    """Local moments of one plane at one scale."""

    centred: Tensor
    mean: Tensor
    variance: Tensor


class Channel(NamedTuple):
    """The model of the fused image at one scale: fused = gain * source + noise."""

    source: Tensor  # variance of the source
    gain: Tensor
    signal: Tensor  # variance of gain * source
    noise: Tensor  # variance of the noise


@metric("VIF", higher_is_better=True, bounds=(0, float("inf")), smallest=SMALLEST)
def vif(
    fused: Tensor,
    infrared: Tensor,
    visible: Tensor,
    *,
    border: Border = "valid",
    centred: bool = True,
    arithmetic: Arithmetic = "exact",
) -> Tensor:
    """VIF: VIFp(I, F) + VIFp(V, F), pixel-domain visual information fidelity with a source as reference.

    Sheikh and Bovik, IEEE TIP 2006, in the authors' pixel-domain variant: four scales, Gaussian
    windows of 17, 9, 5 and 3 pixels with a fifth of that as deviation. In each window the fused image
    is modelled as gain times source plus noise; VIFp is the information of the source that passes
    this channel and visual noise, over the information that passes visual noise alone. Much of the
    literature prints this sum as "VIFF", which is another metric: see `viff`.

    Keyword Args:
        border: "valid" keeps to windows inside the image; "zero" pads with black, as IVIF_ZOO does.
        centred: False puts the windows' peak beside the centre, as IVIF_ZOO does: its samples lie at
            linspace(-(n + 1) / 2, (n - 1) / 2, n).
        arithmetic: "uint8" cuts the products of pixels at the first scale off at 255, as a program in MATLAB
            does that is handed 8-bit images: only the darkest windows keep information there.

    Returns:
        (N,) from 0, 2 for three equal images; higher is better. Above 1 per source where the fused
        image has more contrast. A source without any information, such as a constant, counts as 1.
    """
    of_infrared, of_visible = (
        _fidelity(source, fused, border, centred, arithmetic) for source in (infrared, visible)
    )
    return of_infrared + of_visible


@metric("VIFF", higher_is_better=True, bounds=(0, float("inf")), smallest=SMALLEST)
def viff(fused: Tensor, infrared: Tensor, visible: Tensor) -> Tensor:
    """VIFF: visual information fidelity for fusion, one reference chosen per window (Han et al., 2013).

    Han, Cai, Cao and Xu, Information Fusion 14(2). The stages are the paper's: images are filtered
    into sub-bands and cut into windows; the information in each is taken with and without
    distortion; its ratio over a sub-band is that band's score; the bands are weighted. The details
    follow what the authors' public program does: scales, windows and channel model of
    `vif`, a window at every pixel, visual noise 0.005 * 255^2, 1e-7 decimal digits added to every
    window, sub-bands weighted by 1, 0, 0.15 and 1 over 2.15, finest first, and as reference the source
    with the smaller gain (the visible one where they are equal), as more contrast in the source makes a
    smaller gain.

    Returns:
        (N,) from 0, 1 for three equal images; higher is better. A flaw of the definition is kept: a
        window that is flat in one source has gain 0 there, so it is left out whatever the other
        source shows, unless that is lost or inverted. With a constant source the score is 1.
    """
    score = fused.new_zeros(fused.shape[0])
    sides = [_channels(source, fused, "valid", True, "exact") for source in (infrared, visible)]
    for weight, ours, theirs in zip(BAND_WEIGHTS, *sides, strict=True):
        if weight == 0:
            continue
        chosen = ours.gain < theirs.gain
        source = torch.where(chosen, ours.source, theirs.source)
        ratios = [channel.signal / (channel.noise + BAND_NOISE) for channel in (ours, theirs)]
        kept = torch.where(chosen, ratios[0], ratios[1]).log1p().sum((1, 2, 3))
        whole = source.div(BAND_NOISE).log1p().sum((1, 2, 3))
        small = 1e-7 * log(10) * chosen[0].numel()
        score = score + weight * (kept + small) / (whole + small)
    return score


def _fidelity(source: Tensor, fused: Tensor, border: Border, centred: bool, arithmetic: Arithmetic) -> Tensor:
    kept = whole = fused.new_zeros(fused.shape[0])
    for channel in _channels(source, fused, border, centred, arithmetic):
        kept = kept + (channel.signal / (channel.noise + NOISE)).log1p().sum((1, 2, 3))
        whole = whole + (channel.source / NOISE).log1p().sum((1, 2, 3))
    some = whole > 0
    return torch.where(some, kept / torch.where(some, whole, 1), 1)


@shared
def _channels(
    source: Tensor, fused: Tensor, border: Border, centred: bool, arithmetic: Arithmetic
) -> tuple[Channel, ...]:
    channels = []
    moments = zip(*(_moments(plane, border, centred, arithmetic) for plane in (source, fused)), strict=True)
    for size, (x, y) in zip(WINDOWS, moments, strict=True):
        product = x.centred * y.centred
        if arithmetic == "uint8" and size == WINDOWS[0]:
            product.clamp_(max=255)
        covariance = filter_valid(product, _taps(size, centred))
        covariance = covariance.addcmul_(x.mean, y.mean, value=-1)
        # A flat window has no gain; neither has one in which the fused image is inverted.
        textured = (x.variance.detach() * y.variance.detach()).sign_()
        gain = covariance.clamp(min=0).mul_(textured) / (x.variance + FLAT)
        noise = torch.addcmul(y.variance, gain, covariance, value=-1).clamp(min=FLAT)
        channels.append(Channel(x.variance, gain, gain.square() * x.variance, noise))
    return tuple(channels)


@shared
def _moments(plane: Tensor, border: Border, centred: bool, arithmetic: Arithmetic) -> tuple[Moments, ...]:
    moments = []
    for index, size in enumerate(WINDOWS):
        taps = _taps(size, centred)
        if index:
            plane = filter_valid(_bordered(plane, size, border), taps, stride=2)
        # Variances are differences of squares: without the mean they lose fewer digits, and those
        # of a constant plane are 0.
        around = _bordered(plane, size, border)
        saturating = arithmetic == "uint8" and index == 0
        if not saturating:
            around = around - plane.detach().mean((2, 3), keepdim=True)
        squares = around.square().clamp_max(255) if saturating else around.square()
        mean = filter_valid(around, taps)
        variance = filter_valid(squares, taps).addcmul_(mean, mean, value=-1)
        variance = threshold(variance, FLAT, 0.0)
        moments.append(Moments(around, mean, variance))
    return tuple(moments)


def _bordered(plane: Tensor, size: int, border: Border) -> Tensor:
    return pad(plane, (size // 2,) * 4) if border == "zero" else plane


def _taps(size: int, centred: bool) -> Taps:
    if centred:
        return gaussian_taps(size, size / 5)
    return gaussian_taps(size, size / 5, first=-(size + 1) / 2, step=size / (size - 1))
