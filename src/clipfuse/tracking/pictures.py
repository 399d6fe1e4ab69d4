"""Panels: grids of images with captions."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from clipfuse.files import write_atomically
from clipfuse.ops.depth import to_bytes

_MARGIN, _CAPTION = 6, 22
_WIDEST = 4


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def to_picture(image: Tensor) -> Image.Image:
    """Return (1 or 3, H, W) values in [0, 1] as an 8-bit RGB image."""
    pixels = to_bytes(image.detach().cpu()).permute(1, 2, 0).numpy()
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).convert("RGB")


def draw_panel(
    columns: Sequence[str], rows: Sequence[Sequence[Tensor]], cell_height: int = 224
) -> Image.Image:
    """Draw a grid with a caption over each column.

    Args:
        columns: captions, such as infrared, visible, fused.
        rows: for each row its images, (1 or 3, H, W) in [0, 1]; the images of a row share one size.
        cell_height: height of every row in pixels; an image that would be more than `_WIDEST` times as wide
            is made smaller.
    """
    scaled = []
    for row in rows:
        pictures = [to_picture(image) for image in row]
        wide, high = pictures[0].size
        scale = min(cell_height / high, _WIDEST * cell_height / wide)
        size = max(1, round(wide * scale)), max(1, round(high * scale))
        scaled.append([picture.resize(size, Image.Resampling.BICUBIC) for picture in pictures])
    cell_width = max(picture.width for row in scaled for picture in row)
    size = (
        len(columns) * (cell_width + _MARGIN) + _MARGIN,
        len(rows) * (cell_height + _MARGIN) + _CAPTION + _MARGIN,
    )
    panel = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(panel)
    for column, caption in enumerate(columns):
        centre = _MARGIN + column * (cell_width + _MARGIN) + cell_width / 2
        draw.text((centre, _CAPTION / 2 + 2), caption, fill="black", font=_font(15), anchor="mm")
        for line, pictures in enumerate(scaled):
            left = round(centre - pictures[column].width / 2)
            panel.paste(pictures[column], (left, _CAPTION + line * (cell_height + _MARGIN)))
    return panel


def write_panel(path: Path, panel: Image.Image) -> None:
    """Write a PNG whole or not at all; raises UserError as `write_atomically`."""
    with write_atomically(path, "wb") as file:
        panel.save(file, format="PNG")
