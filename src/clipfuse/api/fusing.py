"""`clipfuse.fuse` and `clipfuse.read_pair`."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipfuse.api.kinds import Images, check_alike, check_files, take
from clipfuse.data.checks import check_different
from clipfuse.data.masks import parse_classes, read_target_mask
from clipfuse.decoding.ranges import read_ranges
from clipfuse.errors import UserError
from clipfuse.images import check_ranges, gray, read_registered
from clipfuse.networks.apply import apply_in_color
from clipfuse.networks.load import load_network
from clipfuse.ops.color import eight_bit_rgb, luma_chroma_to_rgb, rgb_to_luma_chroma
from clipfuse.ops.depth import from_unit, to_unit
from clipfuse.types import FusionBatch


def fuse(
    infrared: Images, visible: Images, network: nn.Module | str | Path | None = None, range: Any = None
) -> Images:
    """Fuse registered infrared and visible images, as the command `clipfuse fuse` does.

    The luma is fused; a colour visible image gives a colour fused image, with its chroma (BT.601) or the one
    that the network learned. Infrared images in colour are reduced to their luma.

    Args:
        infrared: one image or several; see `clipfuse.api.kinds.Images` for kinds, shapes and ranges.
        visible: the same kind, number and size; uint8, uint16 and floating point may differ.
        network: a module of infrared and visible luma, (N, 1, H, W) in [0, 1], that returns the fused luma or
            a `FusionOutput`; a file, as for `load_network`; or None: the bundled weights, loaded once. It is
            run in eval mode, without gradient, on its own device. With a true attribute `learns_chroma` it
            gets the chroma, (N, 2, H, W) in [0, 1], as a third input, and returns a `FusionOutput` with it.
        range: the values that are black and white in images of more than 8 bits: (lo, hi), "bits:14",
            "percentile" (of each image), or a mapping of these to `infrared` and `visible`; None: by the tags
            of the files and by the number types.

    Returns:
        What was given: for arrays and tensors the same shape and type as `visible` (and its device; float32
        in [0, 1] where it was read by a range), for PIL
        images and paths an 8-bit PIL image, "L" or "RGB"; of a list a list, of a batch a batch.

    Raises:
        UserError: the images differ in kind, number or size, are of another type, shape or range, or cannot
            be read; or the network cannot be loaded, or fails.
    """
    ranges = read_ranges(range, "range")
    thermal, color = take("infrared", infrared, ranges.infrared), take("visible", visible, ranges.visible)
    check_alike(thermal, color)
    check_files(infrared, visible, ranges)
    if not isinstance(network, nn.Module):
        network = _bundled() if network is None else load_network(network)
    results = []
    for warm, seen in zip(thermal.parts, color.parts, strict=True):
        luma, chroma = rgb_to_luma_chroma(to_unit(seen))
        fused, chroma = apply_in_color(network, to_unit(gray(warm)).to(luma.device), luma, chroma)
        join = eight_bit_rgb if seen.dtype == torch.uint8 else luma_chroma_to_rgb
        image = join(fused, chroma) if seen.shape[1] == 3 else fused
        results.append(from_unit(image.clamp(0, 1), seen.dtype))
    return color.give_back(results)


@cache
def _bundled() -> nn.Module:
    return load_network()


def read_pair(
    infrared: str | Path,
    visible: str | Path,
    target_mask: str | Path | None = None,
    range: Any = None,
    mask_classes: Sequence[int] | None = None,
) -> FusionBatch:
    """Read the files of a registered pair as the project's record, a batch of one.

    Args:
        infrared: PNG, JPEG, BMP, TIFF or WebP; colour is reduced to its luma.
        visible: the same; gray or colour.
        target_mask: a mask of two values (0 and 1, or 0 and 255), or a map of classes.
        range: as for `fuse`.
        mask_classes: the classes of the map that are targets.

    Returns:
        `infrared` and `visible` (luma) (1, 1, H, W) and `chroma` (1, 2, H, W), float32 in [0, 1]; the name of
        the infrared file without its suffix as the sample id; `target_mask` (1, 1, H, W) bool, or None.

    Raises:
        UserError: a file cannot be read, the sizes differ, both bands are one image, or the mask is none.
    """
    ranges = read_ranges(range, "range")
    check_ranges([(Path(infrared), Path(visible))], ranges, "range=({}, {})")
    if problem := check_different(Path(infrared), Path(visible)):
        raise UserError(problem)
    thermal, color = map(to_unit, read_registered(Path(infrared), Path(visible), ranges))
    luma, chroma = rgb_to_luma_chroma(color[None])
    mask = None
    if target_mask is not None:
        mask = read_target_mask(Path(target_mask), parse_classes(mask_classes, "mask_classes"))[None]
        if mask.shape[1:] != thermal.shape:
            raise UserError(f"{target_mask} is not of the size of {infrared}; expected one mask for the pair")
    return FusionBatch(thermal[None], luma, chroma, (Path(infrared).stem,), mask)
