"""The kinds of images that the functions take and give back: arrays, tensors, PIL images and paths."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipfuse.data.checks import check_different
from clipfuse.decoding.ranges import Range, Ranges
from clipfuse.errors import UserError
from clipfuse.images import check_ranges, check_sizes, pil_to_tensor, read_image
from clipfuse.ops.depth import to_bytes, to_unit

Images = Any
"""One image or several of one kind. One image is

- a NumPy array (H, W), (H, W, 1) or (H, W, 3) RGB,
- a tensor (H, W), (1, H, W) or (3, H, W) RGB,
- a PIL image, whose pixels are taken as they are, not turned by its orientation tag, or
- the path of a PNG, JPEG, BMP, TIFF or WebP file.

Several are an array (N, H, W), (N, H, W, 1) or (N, H, W, 3), a tensor (N, 1, H, W) or (N, 3, H, W), or a list
of single images, which may differ in size. Arrays and tensors are uint8 (0..255), uint16 (0..65535) or
floating point in [0, 1].
"""

Kind = Literal["array", "tensor", "PIL image", "path"]
Form = Literal["one image", "a batch", "a list"]
ROUNDING = 1e-5  # what float32 arithmetic may leave outside of [0, 1]
_EXPECTED = "expected arrays, tensors, PIL images or paths"


@dataclass(frozen=True)
class Stack:
    """Images in one form, whatever they were.

    Attributes:
        word: what they are, for messages.
        kind: what they were given as.
        form: how many were given, and how.
        parts: (N, 1 or 3, H, W) tensors as stored: one for a single image or a batch, one for each of a list.
        shapes: of what was given, one for each part; only of arrays and tensors.
    """

    word: str
    kind: Kind
    form: Form
    parts: Sequence[Tensor]
    shapes: Sequence[tuple[int, ...]]

    def give_back(self, images: Sequence[Tensor]) -> Images:
        """Return images as these were given.

        Args:
            images: for each part a tensor of its shape and type.
        """
        given = [self._one(image, shape) for image, shape in zip(images, self.shapes, strict=True)]
        return given if self.form == "a list" else given[0]

    def _one(self, image: Tensor, shape: tuple[int, ...]) -> Any:
        if self.kind == "tensor":
            return image.reshape(shape)
        if self.kind == "array":
            return image.movedim(1, -1).reshape(shape).contiguous().numpy()
        data = to_bytes(to_unit(image[0])).movedim(0, -1).numpy()
        return Image.fromarray(data[:, :, 0] if data.shape[2] == 1 else data)


def take(word: str, given: Images, values: Range | None = None) -> Stack:
    """Bring images of any kind into one form.

    Args:
        word: what they are, for messages.
        given: one image or several.
        values: which of their values are black and white, if they have more than 8 bits; with a range, arrays
            and tensors may be of any number type.

    Raises:
        UserError: names `word`, what is wrong with it and what was expected.
    """
    if isinstance(given, list | tuple):
        if not given:
            raise UserError(f"{word} is an empty list; {_EXPECTED}")
        stacks = [take(f"{word}[{index}]", each, values) for index, each in enumerate(given)]
        for stack in stacks:
            if stack.form != "one image":
                raise UserError(f"{stack.word} is {stack.form}; expected one image in each place of the list")
            if stack.kind != stacks[0].kind:
                raise UserError(
                    f"{word} mixes kinds: {stacks[0].word} is {_article(stacks[0].kind)}, {stack.word} is "
                    f"{_article(stack.kind)}; give all as one kind"
                )
        parts, shapes = [stack.parts[0] for stack in stacks], [stack.shapes[0] for stack in stacks]
        return Stack(word, stacks[0].kind, "a list", parts, shapes)
    if isinstance(given, str | Path):
        return Stack(word, "path", "one image", [read_image(given, values)[None]], [()])
    if isinstance(given, Image.Image):
        return Stack(
            word, "PIL image", "one image", [_checked(word, pil_to_tensor(given, word)[None], values)], [()]
        )
    if isinstance(given, np.ndarray):
        image, form = _channels_first(word, given, values)
        return Stack(word, "array", form, [_checked(word, image, values)], [given.shape])
    if isinstance(given, Tensor):
        image, form = _batched(word, given.detach())
        return Stack(word, "tensor", form, [_checked(word, image, values)], [tuple(given.shape)])
    raise UserError(f"{word} is of type {type(given).__name__}; {_EXPECTED}")


def _channels_first(word: str, array: np.ndarray, values: Range | None) -> tuple[Tensor, Form]:
    if array.dtype.kind not in ("iuf" if values else "uf") or array.dtype.itemsize > 8:
        raise UserError(_type_message(word, array.dtype))
    native = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    colors = array.ndim > 2 and array.shape[-1] in (1, 3)
    image = torch.from_numpy(native)
    if array.ndim == 2:
        return image[None, None], "one image"
    if array.ndim == 3:
        return (image.movedim(-1, 0)[None], "one image") if colors else (image[:, None], "a batch")
    if array.ndim == 4 and colors:
        return image.movedim(-1, 1), "a batch"
    raise UserError(
        f"{word} is an array of shape {array.shape}; expected (H, W) or (H, W, 1 or 3), and of several "
        "images (N, H, W) or (N, H, W, 1 or 3)"
    )


def _batched(word: str, image: Tensor) -> tuple[Tensor, Form]:
    if image.ndim == 2:
        return image[None, None], "one image"
    if image.ndim == 3 and len(image) in (1, 3):
        return image[None], "one image"
    if image.ndim == 4 and image.shape[1] in (1, 3):
        return image, "a batch"
    raise UserError(
        f"{word} is a tensor of shape {tuple(image.shape)}; expected (H, W) or (1 or 3, H, W), and of "
        "several images (N, 1 or 3, H, W)"
    )


def _type_message(word: str, kind: Any) -> str:
    return f"{word} is of type {kind}; expected uint8 (0..255), uint16 (0..65535) or floating point in [0, 1]"


def _checked(word: str, image: Tensor, values: Range | None) -> Tensor:
    """Return images whose type and range are as promised; what rounding left outside of [0, 1] is clamped."""
    if values and image.dtype != torch.uint8 and image.numel():
        if not bool(image.isfinite().all()):
            raise UserError(f"{word} has values that are NaN or infinite; fill them in before use")
        parts = [torch.from_numpy(values.apply(part.cpu().numpy())) for part in image]
        return torch.stack(parts).to(image.device)
    if image.dtype in (torch.uint8, torch.uint16) and image.numel():
        return image
    if not image.numel():
        raise UserError(f"{word} has no pixels")
    if not image.is_floating_point():
        raise UserError(_type_message(word, image.dtype))
    low, high = (float(value) for value in image.aminmax())
    if isnan(low) or low < -ROUNDING or high > 1 + ROUNDING:
        found = "NaN" if isnan(low) else f"values from {low:g} to {high:g}"
        raise UserError(f"{word} is {image.dtype} with {found}; expected [0, 1], or uint8, or uint16")
    return image.clamp(0, 1)


def check_alike(*stacks: Stack) -> None:
    """Require that images were given in one kind and form, and are of one number and size.

    Raises:
        UserError: names the first two that differ, and how.
    """
    first = stacks[0]
    for other in stacks[1:]:
        if (first.kind, first.form) != (other.kind, other.form):
            ways = [f"{each.word} is {each.form} ({each.kind})" for each in (first, other)]
            raise UserError(f"{' but '.join(ways)}; give both in the same way")
        if len(first.parts) != len(other.parts):
            raise UserError(
                f"{first.word} has {len(first.parts)} images but {other.word} {len(other.parts)}; give pairs"
            )
        for index, parts in enumerate(zip(first.parts, other.parts, strict=True)):
            if len({(len(part), *part.shape[2:]) for part in parts}) > 1:
                place = f"[{index}]" if first.form == "a list" else ""
                one, two = (f"{len(part)} x {part.shape[3]} x {part.shape[2]} pixels" for part in parts)
                raise UserError(
                    f"{first.word}{place} is {one} but {other.word}{place} is {two}; a pair must be "
                    "registered and of one size"
                )


def check_files(infrared: Images, visible: Images, ranges: Ranges) -> None:
    """Check the pairs that were given as paths, and are alike, for what no pixel shows.

    Raises:
        UserError: the two files of a pair are one file, hold the same bytes, or are turned differently by
            their orientation tags.
    """
    both = [[given] if isinstance(given, str | Path) else given for given in (infrared, visible)]
    if all(isinstance(given, list | tuple) and isinstance(given[0], str | Path) for given in both):
        pairs = [(Path(warm), Path(seen)) for warm, seen in zip(*both, strict=True)]
        check_sizes({str(pair): pair for pair in pairs})
        for pair in pairs:
            if problem := check_different(*pair):
                raise UserError(problem)
        check_ranges(pairs, ranges, "range=({}, {})")


def _article(kind: Kind) -> str:
    return f"an {kind}" if kind == "array" else f"a {kind}"
