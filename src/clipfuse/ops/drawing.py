"""Labels drawn on images: the colours of classes, maps of classes, and boxes. One look for all drawings."""

import colorsys
from collections.abc import Sequence
from math import isfinite

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from clipfuse.types import IGNORED, LabelSet

LEAST_SCORE = 0.25
"""The least score of a found object that is drawn."""

SHARE = 0.6
"""Share of a class's colour in a pixel that is painted."""

_DASH, _GAP = 4, 3
_DARKEST = 0.8  # value of the colour of a box, since many images are of the night
_GOLDEN = 0.618  # of a turn from hue to hue: no two classes are near to each other


def class_colors(labels: LabelSet) -> list[tuple[int, int, int]]:
    """Return one RGB triple for each class: the palette, else black for the background and distant hues."""
    if len(labels.palette) == len(labels):
        return list(labels.palette)
    return [
        (0, 0, 0) if kind == labels.background else _bytes(colorsys.hsv_to_rgb(kind * _GOLDEN % 1, 0.8, 1))
        for kind in range(len(labels))
    ]


def paint_classes(image: Tensor, labels: LabelSet, classes: Tensor) -> Tensor:
    """Lay the colours of classes over an image; the background and pixels without a label stay.

    Args:
        image: (3, H, W) uint8.
        labels: what the classes mean.
        classes: (H, W), of whole numbers: indices of the labels, or `IGNORED`.

    Returns:
        (3, H, W) uint8.
    """
    palette = torch.zeros(IGNORED + 1, 3)
    palette[: len(labels)] = torch.tensor(class_colors(labels), dtype=torch.float32)
    bare = classes == IGNORED
    if labels.background is not None:
        bare = bare | (classes == labels.background)
    mixed = (1 - SHARE) * image + SHARE * palette[classes.long()].movedim(-1, 0)
    return torch.where(bare, image, mixed.round().clamp(0, 255).to(torch.uint8))


def draw_boxes(
    image: Tensor,
    labels: LabelSet,
    objects: Sequence[Sequence[float]],
    found: Sequence[Sequence[float]] | None = None,
    hits: Sequence[bool] | None = None,
) -> Tensor:
    """Return an image with its objects in dashed, the found ones in solid lines of their class's colour.

    Found ones are named, with their score; objects are named where no found ones are given. Dark colours are
    brightened, since many images are of the night.

    Args:
        image: (3, H, W) uint8.
        labels: what the classes mean.
        objects: rows x1, y1, x2, y2, class; pixels.
        found: rows x1, y1, x2, y2, score, class; those below `LEAST_SCORE` are left out. None: the objects
            alone are shown.
        hits: whether each found one covers an object; those that do not are drawn in thin lines.

    Returns:
        (3, H, W) uint8.
    """
    canvas = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    pen, colors = ImageDraw.Draw(canvas), [_bright(each) for each in class_colors(labels)]
    right = [True] * len(found or ()) if hits is None else hits
    shown = [(row, hit) for row, hit in zip(found or (), right, strict=True) if row[4] >= LEAST_SCORE]
    shown.sort(key=lambda each: each[0][4])  # the best ones on top
    for row in objects:
        if corners := _corners(row, canvas):
            _dashed(pen, corners, colors[int(row[4])])
    for row, hit in shown:
        if corners := _corners(row, canvas):
            pen.rectangle(corners, outline=colors[int(row[5])], width=2 if hit else 1)
    names = [(row, f"{labels.names[int(row[5])]} {row[4]:.2f}") for row, _ in shown]
    if found is None:
        names = [(row, labels.names[int(row[4])]) for row in objects]
    for row, text in names:
        if corners := _corners(row, canvas):
            _named(pen, corners, text, colors[int(row[-1])], canvas.width)
    return torch.from_numpy(np.asarray(canvas).copy()).permute(2, 0, 1).contiguous()


Corners = tuple[float, float, float, float]
Color = tuple[int, int, int]


def _corners(row: Sequence[float], canvas: Image.Image) -> Corners | None:
    """Return the first and last pixel of a box, which may be a stranger's, across and down."""
    if not all(map(isfinite, row[:4])):
        return None
    far, deep = canvas.width + 2, canvas.height + 2  # lines that lie outside stay there
    left, right = sorted(min(max(float(each), -3), far) for each in (row[0], row[2]))
    top, bottom = sorted(min(max(float(each), -3), deep) for each in (row[1], row[3]))
    return left, top, max(left, right - 1), max(top, bottom - 1)


def _dashed(pen: ImageDraw.ImageDraw, corners: Corners, color: Color) -> None:
    left, top, right, bottom = map(round, corners)
    for x in range(left, right + 1, _DASH + _GAP):
        for y in (top, bottom):
            pen.line((x, y, min(x + _DASH - 1, right), y), fill=color)
    for y in range(top, bottom + 1, _DASH + _GAP):
        for x in (left, right):
            pen.line((x, y, x, min(y + _DASH - 1, bottom)), fill=color)


def _named(pen: ImageDraw.ImageDraw, corners: Corners, text: str, color: Color, width: int) -> None:
    font = ImageFont.load_default(10)
    left, _, right, high = pen.textbbox((0, 0), text, font=font)
    x = min(max(0, corners[0]), max(0, width - right - 2))
    y = corners[1] - high - 1 if corners[1] > high else corners[3] + 1
    pen.rectangle((x, y, x + right - left + 2, y + high), fill=color)
    dark = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] < 128
    pen.text((x + 1, y), text, fill=(255, 255, 255) if dark else (0, 0, 0), font=font)


def _bright(color: Color) -> Color:
    hue, saturation, value = colorsys.rgb_to_hsv(*(level / 255 for level in color))
    return _bytes(colorsys.hsv_to_rgb(hue, saturation, max(value, _DARKEST)))


def _bytes(color: tuple[float, float, float]) -> Color:
    red, green, blue = (round(255 * level) for level in color)
    return red, green, blue
