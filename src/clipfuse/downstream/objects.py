"""Boxes of objects: made from maps of classes, and drawn on images."""

import colorsys
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from clipfuse.types import Boxes, LabelSet

SHOWN = 0.25
"""The least score of a found object that is drawn."""

_DASH, _GAP = 4, 3


def components(classes: Tensor, kinds: Sequence[int], smallest: int) -> Boxes:
    """Return a box for each connected part of a class in a map of classes.

    Pixels are connected at sides and corners. Objects are in the order of `kinds`, then of their first
    pixels, row by row.

    Args:
        classes: (H, W) uint8.
        kinds: the classes of which boxes are made.
        smallest: fewest pixels of a part; smaller ones are left out.
    """
    from scipy.ndimage import find_objects, label

    found: list[list[float]] = []
    of_kind: list[int] = []
    plane = classes.cpu().numpy()
    for kind in kinds:
        numbered, count = label(plane == kind, structure=np.ones((3, 3)))
        sizes = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
        for size, (rows, columns) in zip(sizes, find_objects(numbered), strict=True):
            if size >= smallest:
                found.append([columns.start, rows.start, columns.stop, rows.stop])
                of_kind.append(kind)
    xyxy = torch.tensor(found, dtype=torch.float32).reshape(-1, 4)
    return Boxes(xyxy, torch.tensor(of_kind, dtype=torch.int64))


def draw_boxes(
    image: Tensor, labels: LabelSet, objects: Sequence[Sequence[float]], found: Sequence[Sequence[float]]
) -> Tensor:
    """Return an image with its objects in dashed, the found ones in solid lines of their class's colour.

    Found ones are named, with their score; objects are named where no found ones are given. Dark colours of
    a palette are brightened, since many images are of the night.

    Args:
        image: (3, H, W) uint8.
        labels: with the palette; without one, colours are evenly spaced hues.
        objects: rows x1, y1, x2, y2, class.
        found: rows x1, y1, x2, y2, score, class; those below `SHOWN` are left out.

    Returns:
        (3, H, W) uint8.
    """
    canvas = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(10)
    shown = [row for row in found if row[4] >= SHOWN]
    for row in objects:
        _dashed(pen, row[:4], _color(labels, int(row[4])))
    for row in reversed(shown):  # the best ones on top
        left, top, right, bottom = row[:4]
        pen.rectangle(
            (left, top, max(left, right - 1), max(top, bottom - 1)),
            outline=_color(labels, int(row[5])),
            width=2,
        )
    names = [(row, f"{labels.names[int(row[5])]} {row[4]:.2f}") for row in reversed(shown)]
    names = names or [(row, labels.names[int(row[4])]) for row in objects if not found]
    for row, text in names:
        color = _color(labels, int(row[-1]))
        left, _, right, bottom = pen.textbbox((0, 0), text, font=font)
        x = min(max(0, row[0]), max(0, canvas.width - right - 2))
        y = row[1] - bottom - 1 if row[1] > bottom else row[3]
        pen.rectangle((x, y, x + right - left + 2, y + bottom), fill=color)
        dark = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] < 128
        pen.text((x + 1, y), text, fill=(255, 255, 255) if dark else (0, 0, 0), font=font)
    return torch.from_numpy(np.asarray(canvas).copy()).permute(2, 0, 1).contiguous()


def _dashed(pen: ImageDraw.ImageDraw, box: Sequence[float], color: tuple[int, int, int]) -> None:
    left, top, right, bottom = round(box[0]), round(box[1]), round(box[2]) - 1, round(box[3]) - 1
    for x in range(left, right + 1, _DASH + _GAP):
        for y in (top, bottom):
            pen.line((x, y, min(x + _DASH - 1, right), y), fill=color)
    for y in range(top, bottom + 1, _DASH + _GAP):
        for x in (left, right):
            pen.line((x, y, x, min(y + _DASH - 1, bottom)), fill=color)


def _color(labels: LabelSet, kind: int) -> tuple[int, int, int]:
    if kind < len(labels.palette):
        rgb = [level / 255 for level in labels.palette[kind]]
    else:
        rgb = list(colorsys.hsv_to_rgb(kind / len(labels), 1, 1))
    hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, max(value, 0.8))
    return round(255 * red), round(255 * green), round(255 * blue)
