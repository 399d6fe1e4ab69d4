"""Maps of classes as data sets publish them: one number per class, or one colour per class.

Numbers are read as they are stored. A palette that a file holds is for viewers and is never used, since it
differs between copies of one data set. A colour is looked up in the palette of the description, in the order
RGB or, as programs write it that take OpenCV's order for RGB, BGR: one order for all files of a data set.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from clipfuse.data.checks import read_colors, read_mask
from clipfuse.data.facts import image_colors, mask_levels
from clipfuse.data.labels.description import Color, Description
from clipfuse.errors import UserError
from clipfuse.types import IGNORED

ORDERS = ("RGB", "BGR")
_SHOWN = 8


def check_classes(paths: Sequence[Path], described: Description) -> str:
    """Look at the numbers or colours of all maps, and return the order of their channels, RGB or BGR.

    What the files hold is kept in the cache of `clipfuse.data.facts`. Where all colours are in the palette in
    both orders, RGB is taken.

    Args:
        paths: the files.
        described: of kind `index` or `color`.

    Raises:
        UserError: a file is no map of classes, or holds a class or a colour that is not described; names the
            first such file with the value.
    """
    if described.kind == "index":
        known = _numbers(described)
        for path, levels in zip(paths, mask_levels(paths), strict=True):
            if not levels <= known.keys():
                _refuse_numbers(path, described)
        return "RGB"
    wrong: dict[str, list[Path]] = {order: [] for order in ORDERS}
    palettes = {order: _colors(described, order).keys() for order in ORDERS}
    for path, colors in zip(paths, image_colors(paths), strict=True):
        for order in ORDERS:
            if not colors <= palettes[order]:
                wrong[order].append(path)
    order = min(ORDERS, key=lambda order: len(wrong[order]))
    if wrong[order]:
        path = wrong[order][0]
        _look_up(path, read_colors(path), _colors(described, order), described, order)
    return order


def read_classes(path: Path, described: Description, size: tuple[int, int], order: str = "RGB") -> Tensor:
    """Read a map of classes.

    Args:
        path: the file.
        described: of kind `index` or `color`.
        size: height and width of the pair in pixels.
        order: of the channels of a map in colours, as `check_classes` returns it.

    Returns:
        (H, W) uint8: a class of the description, or `IGNORED`.

    Raises:
        UserError: the file cannot be read, has another size, or holds what is not described.
    """
    if described.kind == "index":
        stored = read_mask(path)
        _check_size(path, tuple(stored.shape[1:]), size)
        if stored.is_floating_point() or not bool((stored[:1] == stored).all()):
            _refuse_numbers(path, described)
        values, known = stored[0].numpy(), _numbers(described)
        table = np.full(65536, -1, np.int16)
        table[list(known)] = list(known.values())
        classes = table[values]
        if classes.min() < 0:
            _refuse_numbers(path, described)
        return torch.from_numpy(classes.astype(np.uint8))
    colors = read_colors(path)
    _check_size(path, colors.shape, size)
    return torch.from_numpy(_look_up(path, colors, _colors(described, order), described, order))


def _numbers(described: Description) -> dict[int, int]:
    """Return the class of each number that a file may hold."""
    known = {index: index for index in range(len(described.labels))}
    return known if described.ignore is None else {**known, int(str(described.ignore)): IGNORED}


def _colors(described: Description, order: str) -> dict[int, int]:
    """Return the class of each colour that a file may hold, packed as `read_colors` does."""
    known = {color: index for index, color in enumerate(described.labels.palette)}
    if isinstance(described.ignore, tuple):
        known[described.ignore] = IGNORED
    step = 1 if order == "RGB" else -1
    return {_packed(color[::step]): index for color, index in known.items()}


def _packed(color: Sequence[int]) -> int:
    red, green, blue = color
    return red << 16 | green << 8 | blue


def _look_up(
    path: Path, colors: np.ndarray, known: Mapping[int, int], described: Description, order: str
) -> np.ndarray:
    keys = np.array(sorted(known))
    place = np.searchsorted(keys, colors).clip(max=len(keys) - 1)
    unknown = keys[place] != colors
    if unknown.any():
        row, column = np.unravel_index(int(unknown.argmax()), colors.shape)
        packed = int(colors[row, column])
        shown: Color = (packed >> 16, packed >> 8 & 255, packed & 255)
        raise UserError(
            f"{path}: the pixel at column {column}, row {row} has the colour RGB {shown}, which is in the "
            f"palette of data.labels neither as RGB nor as BGR (most files fit {order}); complete "
            "data.labels.palette, or take maps with one number per class (kind=index)"
        )
    return np.array([known[int(key)] for key in keys], np.uint8)[place]


def _check_size(path: Path, found: Sequence[int], size: tuple[int, int]) -> None:
    if tuple(found) != tuple(size):
        raise UserError(other_size(path, (found[1], found[0]), (size[1], size[0])))


def other_size(path: Path, found: tuple[int, int], size: tuple[int, int]) -> str:
    """Return a message: a map of classes is not of the size (width, height) of its pair."""
    return (
        f"{path} is {found[0]} x {found[1]} pixels, but its pair {size[0]} x {size[1]}; take the labels at "
        "the pair's size, resampled by the nearest neighbour and not by interpolation"
    )


def _refuse_numbers(path: Path, described: Description) -> NoReturn:
    """Raise the error of a file that is no map of the classes described."""
    stored, count = read_mask(path), len(described.labels)
    if stored.is_floating_point() or not bool((stored[:1] == stored).all()):
        raise UserError(
            f"{path}: is in colour or of floating point; expected one number per class (kind=index): take "
            "such maps, or describe maps in colours by data.labels.kind and data.labels.palette"
        )
    found = Counter(stored[0].flatten().tolist())
    wrong = sorted(found.keys() - _numbers(described).keys())
    shown = ", ".join(map(str, wrong[:_SHOWN])) + (", ..." if len(wrong) > _SHOWN else "")
    pixels = sum(found[each] for each in wrong)
    ignored = f" and {described.ignore} for no label" if described.ignore is not None else ""
    raise UserError(
        f"{path}: holds the class {shown} in {pixels} pixels; expected 0 to {count - 1}{ignored}: mend the "
        "file, complete data.labels.classes, or name a value that means no label by data.labels.ignore"
    )
