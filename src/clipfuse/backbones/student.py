"""A very small network that is quick on a CPU: a fusion of pyramids whose weights it computes."""

from collections.abc import Sequence
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipfuse.backbones.base import FusionBackbone
from clipfuse.ops.black import keep_black
from clipfuse.ops.pyramid import base_weight, binomial, laplacian_pyramid
from clipfuse.types import FusionOutput

LEVELS = 4  # details that are mixed; the base has a sixteenth of the sides
_MOST = 3.0  # greatest gain, and the inverse of the smallest
_SHIFT = 0.25  # greatest change of the brightness of the base
_KNEE = 0.02  # from here to black and to white the output approaches them without reaching them
_REACH, _OUTSIDE = 3, 7 / 255  # pixels to each side, and how far beyond their range the output may go
STARTS = ("average", "energy")
_WEAK = (8 / 255) ** 2  # energy from which a detail's weight is learned more than given
_FAINT = (0.25 / 255) ** 2  # energy below which a detail counts as none, as in `energy_fusion`


class Student(FusionBackbone):
    """Compute for each place and scale how much of each band to keep; mix the details of both by it.

    Both bands are split into four details and a base (means of 2x2, enlarged bilinearly, subtracted; with
    `start=energy` by `laplacian_pyramid`). With a weight w and a gain g from the network, and of the base b
    also a shift s:

        detail = g (w d_I + (1 - w) d_V)
        base = m + g (w b_I + (1 - w) b_V - m) + s,  m the mean of the mixed base over the image

    w is in (0, 1), g in (1/3, 3), s within a quarter of the range. The finest weights and gains are computed
    at half resolution, those of the coarser details and the base at a quarter, and all are enlarged
    bilinearly or averaged: they are smooth, so that the output has no checkerboard and no edge that neither
    band has. One encoder sees either band: its details, its means, and the logarithm of its local energy.
    Near black and white, from 5 levels of 255, the output approaches them smoothly, so that a gradient is
    left; in eval mode black is kept (`keep_black`).

    The last layers start at zero: the untrained network returns the average of both bands, or with
    `start=energy` a fusion by rule. Of that it learns to change the weights of the details, which are in the
    ratio of the squared local energies (`_by_energy`, by which flat skies stay flat). Their gain stays 1, and
    the base is the average, by day the brighter band, and warm where hot (`base_weight`): learned, they
    gained nothing and cost flat skies. No pixel of it is more than 7 levels of 255 above or below all that
    either band shows within 3 pixels (`_limited`): no halo.

    Own design, for `clipfuse distill`: networks that draw an image need many channels at full resolution for
    what subtraction and addition do here exactly, and its weights can be looked at (feature `shares`).

    Args:
        width: channels at a quarter of the sides, 4 or more; 24 gives 18,323 parameters, from `energy`
            18,164.
        chroma: also learn the chroma of the fused image (`ChromaHead`).
        start: the fusion of the untrained network: `average`, or `energy`, details by their local energy on
            a base that is bright by day and warm where hot.

    Raises:
        ValueError: width is too small, or start is another word.
    """

    size_multiple = 2**LEVELS

    def __init__(self, width: int = 24, chroma: bool = False, start: str = "average") -> None:
        super().__init__()
        if width < 4 or start not in STARTS:
            raise ValueError(
                f"student: width {width} and start '{start}'; expected 4 or more, and one of "
                f"{', '.join(STARTS)}"
            )
        self.by_energy = start == "energy"
        if self.by_energy:
            self.size_multiple = 2 * 2**LEVELS  # a base of 2 px, whose neighbourhood can be mirrored
        fine = 16  # channels at half resolution
        self.encode = nn.Conv2d(7, fine, 3, padding=1)
        self.halve = nn.Conv2d(2 * fine, width, 3, stride=2, padding=1)
        self.near = nn.Conv2d(width, width, 3, padding=2, dilation=2)
        self.far = nn.ModuleList(_Spread(width, dilation) for dilation in (4, 8))
        kinds = 1 if self.by_energy else 2  # of maps of each detail: weights, and gains
        self.coarse = nn.Conv2d(width, kinds * (LEVELS - 2) + (0 if self.by_energy else 3), 1)
        self.enlarge, self.skip = nn.Conv2d(width, fine, 1, bias=False), nn.Conv2d(2 * fine, fine, 1)
        self.mix = nn.Conv2d(fine, fine, 3, padding=1)
        self.fine = nn.Conv2d(fine, 2 * kinds, 1)
        for last in (self.coarse, self.fine):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        if chroma:
            self.learn_chroma(fine, scale=2)

    def fuse(self, infrared: Tensor, visible: Tensor) -> FusionOutput:
        """Fuse planes whose sides 16 divides.

        The feature `fused` is (N, 16, H/2, W/2); `shares`, (N, 2, H/2, W/2), are the factors g w and
        g (1 - w) by which the finest details of both bands are multiplied.
        """
        bands = torch.cat([infrared, visible], dim=1)
        details, base = laplacian_pyramid(bands, LEVELS) if self.by_energy else _split(bands)
        evidence = torch.stack(_evidence(bands, details), dim=2).flatten(0, 1)
        seen = F.relu(self.encode(evidence)).unflatten(0, bands.shape[:2]).flatten(1, 2)
        coarse = F.relu(self.halve(seen))
        coarse = coarse + F.relu(self.near(coarse))
        for spread in self.far:
            coarse = spread(coarse)
        hidden = F.relu(self.skip(seen) + _twice(self.enlarge(coarse)))
        hidden = F.relu(self.mix(hidden))
        kinds = 1 if self.by_energy else 2
        maps = [*self.fine(hidden).split(kinds, dim=1), *self.coarse(coarse).split(kinds, dim=1)]
        if self.by_energy:
            thermal, color = base.chunk(2, dim=1)
            fused = color + base_weight(thermal, color) * (thermal - color)
        else:
            fused = self._base(base, F.avg_pool2d(torch.cat(maps[LEVELS:], dim=1), 4))
        for level in reversed(range(LEVELS)):
            if self.by_energy:
                given = F.avg_pool2d(maps[level], 2 ** (level - 2)) if level > 2 else maps[level]
                finest = shares = _by_energy(given, details[level], level)
            else:
                finest = shares = _shares(maps[level])
                if level > 2:
                    shares = F.avg_pool2d(shares, 2 ** (level - 2))
            if level == 0:
                shares = _twice(shares)
            (warm, light), (thermal, color) = shares.chunk(2, dim=1), details[level].chunk(2, dim=1)
            fused = torch.addcmul(torch.addcmul(_twice(fused), warm, thermal), light, color)
        if self.by_energy:
            fused = _limited(fused, bands)
        fused = _within(fused)
        return FusionOutput(
            fused if self.training else keep_black(fused, infrared, visible),
            {"fused": hidden, "shares": finest},
        )

    def _base(self, bands: Tensor, maps: Tensor) -> Tensor:
        weight, gain = torch.sigmoid(maps[:, :1]), _gain(maps[:, 1:2])
        thermal, color = bands.chunk(2, dim=1)
        mixed = color + weight * (thermal - color)
        level = mixed.mean((2, 3), keepdim=True)
        return level + gain * (mixed - level) + _SHIFT * torch.tanh(maps[:, 2:])


class _Spread(nn.Module):
    """A residual block that sees far: a dilated convolution of each channel, then one of each pixel."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, groups=width)
        self.mix = nn.Conv2d(width, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, width, h, w)."""
        return features + F.relu(self.mix(self.spread(features)))


def _split(bands: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the details, fine to coarse, and the base of (N, 2, H, W) whose sides 16 divides."""
    details = []
    for _ in range(LEVELS):
        small = F.avg_pool2d(bands, 2)
        details.append(bands - _twice(small))
        bands = small
    return details, bands


def _twice(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)


def _evidence(bands: Tensor, details: Sequence[Tensor]) -> list[Tensor]:
    """Return what the encoder sees of each band: seven maps, each (N, 2, H/2, W/2)."""
    finest = F.pixel_unshuffle(details[0], 2).unflatten(1, (2, 4)).unbind(2)
    energies = [F.avg_pool2d(details[0].square(), 2), F.avg_pool2d(details[1].square(), 3, 1, 1)]
    return [
        *(4 * each for each in finest),
        F.avg_pool2d(bands, 2),
        *(0.1 * torch.log(energy + _FAINT) for energy in energies),
    ]


def _shares(maps: Tensor) -> Tensor:
    """Return the factors g w and g (1 - w) of both bands, (N, 2, h, w), of maps of that shape."""
    weight, gain = torch.sigmoid(maps[:, :1]), _gain(maps[:, 1:])
    warm = gain * weight
    return torch.cat([warm, gain - warm], dim=1)


def _by_energy(maps: Tensor, detail: Tensor, level: int) -> Tensor:
    """Return weights of both bands' details in the ratio of their squared local energies, changed by maps.

    The maps, (N, 1, h, w), are added to the logit of the infrared weight, twice the difference of the
    logarithms of both energies. Where these are those of some grey levels or less, the maps count less, and
    in a flat sky not at all.
    """
    if level == 0:
        near = F.avg_pool2d(F.avg_pool2d(detail.square(), 2), 3, 1, 1, count_include_pad=False)
    else:
        near = binomial(detail.square())
    both = near.sum(1, keepdim=True)
    warm, light = (near + _FAINT).log().chunk(2, dim=1)
    weight = torch.sigmoid(2 * (warm - light) + maps * (both / (both + _WEAK)))
    return torch.cat([weight, 1 - weight], dim=1)


def _limited(fused: Tensor, bands: Tensor) -> Tensor:
    """Return an image (N, 1, H, W) held near the range of both bands, (N, 2, H, W), around each pixel."""
    high, low = (_greatest(sign * bands) for sign in (1, -1))
    return torch.minimum(torch.maximum(fused, -low - _OUTSIDE), high + _OUTSIDE)


def _greatest(bands: Tensor) -> Tensor:
    side = 2 * _REACH + 1
    # In two passes, which is faster.
    rows = F.max_pool2d(bands.amax(1, keepdim=True), (side, 1), 1, (_REACH, 0))
    return F.max_pool2d(rows, (1, side), 1, (0, _REACH))


def _gain(maps: Tensor) -> Tensor:
    return torch.exp(log(_MOST) * torch.tanh(maps))


def _within(image: Tensor) -> Tensor:
    """Return an image within [0, 1]: the same between the knees, and a tanh of what is beyond."""
    inside = image.clamp(_KNEE, 1 - _KNEE)
    return inside + _KNEE * torch.tanh((image - inside) / _KNEE)
