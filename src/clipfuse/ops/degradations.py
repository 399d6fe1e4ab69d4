"""What is wrong with a source image, by measures of the literature instead of a language model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_level(images: Tensor) -> Tensor:
    """Return the mean of each image, (N,) in [0, 1]."""
    return images.flatten(1).mean(dim=1)


def rms_contrast(images: Tensor) -> Tensor:
    """Return the standard deviation of each image, (N,) (Peli, J. Opt. Soc. Am. A, 1990)."""
    return images.flatten(1).std(dim=1, correction=0)


def blur_effect(images: Tensor, reach: int = 9) -> Tensor:
    """Return how little an image changes when it is blurred, (N,) from 0, sharp, to 1, flat.

    Crete, Dolmiere, Ladret and Nicolas, "The blur effect", SPIE 2007: the share of the differences between
    neighbours that a mean over `reach` pixels leaves, the larger of both directions.
    """
    found = []
    for plane in (images, images.mT):
        # A short side is all there is to average: the kernel shrinks to it.
        size = min(reach, plane.shape[-1] - (1 - plane.shape[-1] % 2))
        padded = F.pad(plane, (size // 2, size // 2, 0, 0), mode="replicate")
        softened = F.avg_pool2d(padded, (1, size), stride=1)
        sharp, soft = (each.diff(dim=-1).abs() for each in (plane, softened))
        lost = (sharp - soft).clamp(min=0).flatten(1).sum(dim=1)
        whole = sharp.flatten(1).sum(dim=1)
        found.append(torch.where(whole > 0, 1 - lost / whole.clamp(min=1e-12), 1.0))
    return torch.stack(found).amax(dim=0)


def noise_level(images: Tensor) -> Tensor:
    """Return the standard deviation of white noise, (N,).

    Donoho and Johnstone, Biometrika 1994: the median magnitude of the finest diagonal Haar coefficients,
    over 0.6745.
    """
    height, width = (side // 2 * 2 for side in images.shape[-2:])
    even, odd = images[..., 0:height:2, :width], images[..., 1:height:2, :width]
    diagonal = (even[..., 0::2] - even[..., 1::2] - odd[..., 0::2] + odd[..., 1::2]) / 2
    return diagonal.abs().flatten(1).median(dim=1).values / 0.6745


def stripe_level(images: Tensor) -> Tensor:
    """Return the strength of stripes that run over the whole image, (N,), the larger of both directions.

    Own design: second differences across rows have a median over each row, which no object moves that is
    narrower than half of the image; their root mean square over rows is divided by sqrt(6), that of white
    noise of spread 1.
    """
    found = [
        plane.diff(n=2, dim=-2).median(dim=-1).values.square().mean(dim=(1, 2)).sqrt() / 6**0.5
        for plane in (images, images.mT)
    ]
    return torch.stack(found).amax(dim=0)


def blockiness(images: Tensor, side: int = 8) -> Tensor:
    """Return how far differences at the borders of blocks exceed those inside, (N,), 0 or more.

    After Wang, Sheikh and Bovik, ICIP 2002; the borders' place is not taken as known, since images are cut:
    of the `side` possible places the one of the greatest mean difference, over the median of all. Of both
    directions the smaller counts, since an upright edge is no grid.
    """
    found = []
    for plane in (images, images.mT):
        steps = plane.diff(dim=-1).abs().mean(dim=(1, 2))  # (N, W - 1)
        usable = steps.shape[-1] // side * side
        if usable == 0:
            return images.new_zeros(len(images))
        means = steps[:, :usable].unflatten(1, (-1, side)).mean(dim=1)
        found.append(means.amax(dim=1) / means.median(dim=1).values.clamp(min=0.25 / 255) - 1)
    return torch.stack(found).amin(dim=0)


@dataclass(frozen=True)
class Degradation:
    """A defect, and when a source has it.

    Attributes:
        measure: (N, 1, H, W) float in [0, 1] -> (N,).
        limit: where the defect begins.
        above: whether an image has it above or below the limit.
    """

    measure: Callable[[Tensor], Tensor]
    limit: float
    above: bool = True


DEGRADATIONS: Mapping[str, Degradation] = {
    "under": Degradation(mean_level, 0.11, above=False),
    "over": Degradation(mean_level, 0.75),
    "low_contrast": Degradation(rms_contrast, 0.055, above=False),
    "blur": Degradation(blur_effect, 0.5),
    "noise": Degradation(noise_level, 0.045),
    "stripes": Degradation(stripe_level, 0.03),
    "blocks": Degradation(blockiness, 1.0),
}
"""Defects by name. The limits are own design: they lie between images with and without the defect."""


@torch.no_grad()
def degradations(images: Tensor) -> Tensor:
    """Return which of `DEGRADATIONS` each image has.

    Seven defects of one image are measured, of the eight that the bundled CLIP was trained on: noise, blur,
    low contrast, too dark, too bright, and two of its artifacts, stripes and the blocks of JPEG. Ghosts are
    no defect of one source, and no statistic told sharpened images from rendered ones.

    On images that were given one defect at our strengths it is found in 89 to 100 %, and rarely without
    reason (experiments/autofuse): 100 % of blur, noise, stripes and low contrast, 94 to 100 % of too bright,
    89 to 100 % of blocks. A dark image also has little contrast. On sources as they are: of MSRS, a third of
    the visible and two thirds of the infrared images are too dark; of RoadScene's visible ones 7 % too
    bright. The limits were chosen on some of these images. Noise is found where it is white.

    Args:
        images: (N, 1, H, W) float in [0, 1], sides of 16 px or more; smaller ones have no blocks or stripes.

    Returns:
        (N, 7) bool, in the order of `DEGRADATIONS`.

    Raises:
        ValueError: a side is below 2 px.
    """
    if min(images.shape[-2:]) < 2:
        raise ValueError(
            f"images are {tuple(images.shape)}; expected (N, 1, H, W) with sides of 2 px or more"
        )
    planes = images.detach().double() if images.dtype == torch.float64 else images.detach().float()
    with torch.autocast(planes.device.type, enabled=False):
        found = []
        for kind in DEGRADATIONS.values():
            value = kind.measure(planes)
            found.append(value > kind.limit if kind.above else value < kind.limit)
    return torch.stack(found, dim=1)
