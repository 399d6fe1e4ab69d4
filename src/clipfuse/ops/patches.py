"""Random square patches of images: where they lie, and cutting them out, all in one `grid_sample`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from kornia.geometry.transform import get_perspective_transform
from torch import Tensor

from clipfuse.ops.pyramid import soften
from clipfuse.ops.sending import send

Sides = tuple[float, float]


@dataclass(frozen=True)
class PatchPlaces:
    """Where P patches of each of N images lie.

    Attributes:
        maps: (N, P, 3, 3) float64 on the CPU: homographies from the patch to the image, both in
            `grid_sample`'s coordinates without `align_corners`, [-1, 1] from edge to edge.
        frames: (N, P, 4) left, top, right, bottom in the image's coordinates: what lies outside is 0.
            None if nothing is.
        pixels: side of the largest patch, in pixels of the image: of all, or of each image, (N,).
    """

    maps: Tensor
    frames: Tensor | None
    pixels: float | Tensor


def affine_places(
    shape: tuple[int, int],
    seeds: Sequence[int],
    count: int,
    sides: Sides = (0.5, 0.8),
    degrees: float = 5.0,
    zoom: float = 1.5,
    shear: float = 5.0,
) -> PatchPlaces:
    """Draw squares that are turned, sheared and magnified a little, wholly inside the image.

    After LDFusion's release, which draws one side per batch and one change per crop for all images, shifts
    the content down and fills with black. Here every patch has a draw of its own, and shows only image.

    Args:
        shape: height and width of the images.
        seeds: one per image.
        count: patches per image.
        sides: least and greatest side of a patch before magnification, as a share of the shorter side.
        degrees: greatest angle.
        zoom: greatest magnification, 1 or more.
        shear: greatest horizontal shear, in degrees.
    """
    height, width = shape
    draws = _uniform(seeds, count, 6)
    side, angle, scale, slant, right, down = draws.unbind(-1)
    angle, slant = ((2 * draw - 1) * math.radians(most) for draw, most in ((angle, degrees), (slant, shear)))
    half = (sides[0] + (sides[1] - sides[0]) * side) * min(shape) / 2 / (1 + (zoom - 1) * scale)
    cos, sin, tan = angle.cos(), angle.sin(), slant.tan()
    rows = torch.stack([cos, -cos * tan - sin, sin, cos - sin * tan], dim=-1).unflatten(-1, (2, 2))
    reach = half.unsqueeze(-1) * rows.abs().sum(dim=-1)  # half of the width and height the patch takes up
    limit = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    fit = (limit / reach).amin(dim=-1).clamp(max=1)
    half, reach = half * fit, reach * fit.unsqueeze(-1)
    center = reach + torch.stack([right, down], dim=-1) * 2 * (limit - reach)
    maps = torch.zeros(len(seeds), count, 3, 3, dtype=torch.float64)
    maps[..., :2, :2] = half[..., None, None] * rows / limit.unsqueeze(-1)
    maps[..., :2, 2] = center / limit - 1
    maps[..., 2, 2] = 1
    return PatchPlaces(maps, None, sides[1] * min(shape))


def perspective_places(
    shape: tuple[int, int],
    seeds: Sequence[int],
    count: int,
    sides: Sides = (0.25, 0.5),
    small_share: float = 0.6,
    distortion: float = 0.5,
) -> PatchPlaces:
    """Draw squares of two sizes, seen in perspective before black.

    The rule of LDFusion's release of 2024: 24 of 40 patches of the smaller side, the corners of each drawn
    inwards by at most `distortion` of half its side. There one draw serves the whole batch.

    Args:
        shape: height and width of the images.
        seeds: one per image.
        count: patches per image.
        sides: the two sides, as shares of the shorter side.
        small_share: share of the patches that have the first side.
        distortion: in [0, 1).
    """
    height, width = shape
    draws = _uniform(seeds, count, 10)
    small = torch.arange(count) < round(small_share * count)
    half = torch.where(small, sides[0], sides[1]).double() * min(shape) / 2
    limit = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    center = half.unsqueeze(-1) + draws[..., :2] * 2 * (limit - half.unsqueeze(-1))
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
    moved = corners * (1 - distortion * draws[..., 2:].unflatten(-1, (4, 2)))
    whole = corners.expand_as(moved)
    warps = get_perspective_transform(moved.flatten(0, 1), whole.flatten(0, 1)).view(*moved.shape[:2], 3, 3)
    place = torch.zeros_like(warps)
    place[..., 0, 0], place[..., 1, 1], place[..., 2, 2] = half / limit[0], half / limit[1], 1.0
    place[..., :2, 2] = center / limit - 1
    reach = torch.stack([half / limit[0], half / limit[1]], dim=-1)
    middle = place[..., :2, 2]
    frames = torch.cat([middle - reach, middle + reach], dim=-1)
    return PatchPlaces(place @ warps, frames, max(sides) * min(shape))


def cut_patches(images: Tensor, places: PatchPlaces, size: tuple[int, int]) -> Tensor:
    """Cut patches out, bilinearly; the gradient reaches the images.

    Where a patch is much larger than `size`, it is sampled more densely and averaged: the patches of an image
    do not depend on the other images, if `places.pixels` does not.

    Args:
        images: (N, C, H, W).
        places: of N images of this shape.
        size: height and width of the result.

    Returns:
        (N * P, C, *size), the patches of one image after another.
    """
    pixels = places.pixels
    if isinstance(pixels, Tensor):
        if len(pixels):
            return _cut_each(images, places, pixels.tolist(), size)
        pixels = 0.0  # of no image
    dense = max(1, round(pixels / min(size)))
    height, width = size[0] * dense, size[1] * dense
    maps = places.maps if places.frames is not None else places.maps[..., :2, :]
    maps = send(maps, images.device, images.dtype)
    down, right = (
        (torch.arange(side, device=images.device, dtype=images.dtype) * 2 + 1) / side - 1
        for side in (height, width)
    )
    # Linear in row and column: the sum of two small tensors, no product of a matrix with every pixel.
    columns = maps[..., 0, None].mT * right[:, None]
    rows = maps[..., 1, None].mT * down[:, None] + maps[..., 2, None].mT
    grid = rows.unsqueeze(3) + columns.unsqueeze(2)  # (N, P, height, width, 2 or 3)
    xy = grid if places.frames is None else grid[..., :2] / grid[..., 2:]
    flat = xy.flatten(1, 2)
    cut = F.grid_sample(images, flat, padding_mode="border", align_corners=False)
    patches = cut.unflatten(2, (-1, height)).transpose(1, 2).flatten(0, 1)
    if places.frames is not None:
        low, high = send(places.frames, images.device, images.dtype)[:, :, None, None].chunk(2, dim=-1)
        inside = ((xy >= low) & (xy <= high)).all(dim=-1)
        patches = patches * inside.flatten(0, 1).unsqueeze(1)
    return F.avg_pool2d(patches, dense) if dense > 1 else patches


def _cut_each(images: Tensor, places: PatchPlaces, pixels: Sequence[float], size: tuple[int, int]) -> Tensor:
    """Cut the patches of images together of one density."""
    together: dict[int, list[int]] = {}
    for index, side in enumerate(pixels):
        together.setdefault(max(1, round(side / min(size))), []).append(index)
    frames = places.frames
    found = []
    for dense, rows in together.items():
        own = PatchPlaces(places.maps[rows], None if frames is None else frames[rows], dense * min(size))
        found.append(cut_patches(images[rows], own, size).unflatten(0, (len(rows), -1)))
    order = torch.tensor([index for rows in together.values() for index in rows]).argsort().tolist()
    return torch.cat(found)[order].flatten(0, 1)


def random_views(images: Tensor, seeds: Sequence[int], size: tuple[int, int]) -> Tensor:
    """Return one view of each image: 0.7 to 1 of its side, slightly turned, sheared and blurred.

    Own design: a network that is guided by whole images learns a regular pattern too fine for the views.

    Args:
        images: (N, C, H, W).
        seeds: one per image.
        size: height and width of the views.

    Returns:
        (N, C, *size).
    """
    height, width = images.shape[-2:]
    places = affine_places((height, width), seeds, 1, sides=(0.7, 1.0), zoom=1.0)
    cut = cut_patches(images, places, size)
    draws = [torch.rand((), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    sigma = (0.2 + 0.8 * torch.stack(draws)) / 112
    return soften(cut, send(sigma, cut.device, cut.dtype), 1 / 112)


def _uniform(seeds: Sequence[int], count: int, numbers: int) -> Tensor:
    draws = [
        torch.rand(count, numbers, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for seed in seeds
    ]
    return torch.stack(draws)
