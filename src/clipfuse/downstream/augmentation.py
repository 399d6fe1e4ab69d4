"""Random flips, magnifications and crops of an image together with its labels.

Every draw is seeded by (seed, update, name of the image), so that all sources of images get the same ones.
Own design: what segmentation and detection both use, without changes of colour, which would favour a source.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from clipfuse.downstream.base import Example
from clipfuse.ops.seeding import derived_seed
from clipfuse.types import IGNORED, Boxes

_SMALLEST, _VISIBLE = 2.0, 0.3


def augmented(
    example: Example, size: Sequence[int], scale: Sequence[float], *seed: int | str, flip: bool = True
) -> Example:
    """Return the example seen through a random window, mirrored in half of the cases.

    The window is as large as `size` divided by a magnification, drawn evenly in the logarithm, and lies
    anywhere in the image; where it is larger than the image, the image is continued by mid-gray without
    labels. Images are resized bilinearly with anti-aliasing, maps of classes to the nearest. Of an object the
    part inside of the window is kept; it is left out where less than 0.3 of its area is inside, or a side is
    shorter than 2 pixels in the result.

    Args:
        example: image (C, H, W) uint8 and labels.
        size: height and width of the result.
        scale: least and greatest magnification; (1, 1) alone crops.
        seed: decides all draws, such as (seed, update, name).
        flip: whether it is mirrored at all.
    """
    generator = torch.Generator().manual_seed(derived_seed("augmentation", *seed))
    mirror, zoom, down, right = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    low, high = scale
    magnification = low * (high / low) ** zoom
    height, width = example.image.shape[-2:]
    window = [max(1, round(side / magnification)) for side in size]
    wanting = [max(0, window[0] - height), max(0, window[1] - width)]
    top = round(down * max(0, height - window[0]))
    left = round(right * max(0, width - window[1]))
    padding = [wanting[1] // 2, wanting[0] // 2, wanting[1] - wanting[1] // 2, wanting[0] - wanting[0] // 2]

    def window_of(value: Any, fill: int) -> Any:
        if flip and mirror < 0.5:
            value = functional.horizontal_flip(value)
        if any(wanting):
            value = functional.pad(value, padding, fill=fill)
        return functional.crop(value, top, left, *window)

    image = functional.resize(window_of(tv_tensors.Image(example.image), 128), list(size), antialias=True)
    classes, boxes = example.classes, example.boxes
    if classes is not None:
        cut = window_of(tv_tensors.Mask(classes), IGNORED).as_subclass(Tensor)
        # torchvision's own resizing of masks lies half a pixel beside that of images.
        classes = interpolate(cut[None, None], list(size), mode="nearest-exact")[0, 0]
    if boxes is not None:
        whole: Any = tv_tensors.BoundingBoxes(boxes.xyxy, format="XYXY", canvas_size=(height, width))
        inside = functional.resize(window_of(whole, 0), list(size)).as_subclass(Tensor)
        inside = inside.clamp(min=0).minimum(torch.tensor([size[1], size[0]] * 2))
        sides, full = inside[:, 2:] - inside[:, :2], boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]
        ratio = size[0] / window[0] * (size[1] / window[1])
        kept = (sides >= _SMALLEST).all(dim=1) & (sides.prod(dim=1) >= _VISIBLE * ratio * full.prod(dim=1))
        boxes = Boxes(inside[kept], boxes.classes[kept])
    return replace(example, image=image.as_subclass(Tensor), classes=classes, boxes=boxes)
