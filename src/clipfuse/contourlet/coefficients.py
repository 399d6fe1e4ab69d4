"""The record of a contourlet transform's bands."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ContourletCoefficients:
    """All bands of a batch of images.

    Attributes:
        lowpass: the coarsest approximation, (N, C, h, w).
        details: one tuple of bands per level, coarse to fine. A level of depth 0 has three, (N, C, h, w):
            LH (low along rows, high along columns), HL, HH; a level of depth l has 2**l wedges, the
            first half wide (horizontal frequencies, vertical lines), the second half tall.
        size: (H, W) of the images, which `inverse` restores.
    """

    lowpass: Tensor
    details: tuple[tuple[Tensor, ...], ...]
    size: tuple[int, int]


torch.export.register_dataclass(ContourletCoefficients)


def gather(
    bands: Sequence[Tensor], levels: Sequence[int], batch: tuple[int, int], size: tuple[int, int]
) -> ContourletCoefficients:
    """Sort flat bands (N*C, h, w), lowpass first, into levels."""
    images = [band.unflatten(0, batch) for band in bands]
    details, first = [], 1
    for depth in levels:
        last = first + band_count(depth)
        details.append(tuple(images[first:last]))
        first = last
    return ContourletCoefficients(images[0], tuple(details), size)


def band_count(depth: int) -> int:
    """How many detail bands a level of this depth has."""
    return 2**depth if depth else 3


def flatten(
    coefficients: ContourletCoefficients, levels: Sequence[int], shapes: Sequence[tuple[int, int]]
) -> list[Tensor]:
    """All bands as (N*C, h, w), lowpass first, coarse to fine, of one type, float32 at least.

    Raises:
        ValueError: number or shapes of the bands are not those of `levels` and `size`.
    """
    counts = [len(level) for level in coefficients.details]
    if counts != [band_count(depth) for depth in levels]:
        raise ValueError(f"coefficients have {counts} bands per level; levels {tuple(levels)} have others")
    bands = [coefficients.lowpass, *(band for level in coefficients.details for band in level)]
    batch = tuple(coefficients.lowpass.shape[:2])
    for band, shape in zip(bands, shapes, strict=True):
        if tuple(band.shape) != (*batch, *shape):
            raise ValueError(
                f"a band has shape {tuple(band.shape)}; "
                f"an image of {coefficients.size} has {(*batch, *shape)} there"
            )
    return [computable(band).flatten(0, 1) for band in bands]


def computable(tensor: Tensor) -> Tensor:
    """Half precision as float32, the rest as it is: the filters' stopbands need more than 8 bits."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def check_image(image: Tensor, smallest: int) -> None:
    """Require floating-point (N, C, H, W) with sides of at least `smallest`.

    Raises:
        ValueError: names the shape, type or size and what was expected.
    """
    if image.ndim != 4:
        raise ValueError(f"the image has shape {tuple(image.shape)}; expected (N, C, H, W)")
    if not image.is_floating_point():
        raise ValueError(f"the image has type {image.dtype}; expected a floating-point one")
    if min(image.shape[-2:]) < smallest:
        raise ValueError(
            f"the image is {image.shape[-2]}x{image.shape[-1]}; these levels need {smallest}x{smallest}"
        )


def check_levels(levels: Sequence[int]) -> tuple[int, ...]:
    """Require at least one level, each a tree depth from 0 to 8.

    Raises:
        ValueError: names the levels.
    """
    levels = tuple(levels)
    valid = all(
        isinstance(depth, int) and not isinstance(depth, bool) and 0 <= depth <= 8 for depth in levels
    )
    if not levels or not valid:
        raise ValueError(
            f"levels is {levels}; expected tree depths from 0 to 8, coarse to fine, such as (0, 3, 3, 3)"
        )
    return levels
