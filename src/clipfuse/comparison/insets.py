"""Test pictures with a zoomed inset, as papers show them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from clipfuse.comparison.pictures import Sources, fused_picture
from clipfuse.comparison.plots import Picture, wrapped
from clipfuse.comparison.statistics import Array
from clipfuse.comparison.table import Table
from clipfuse.comparison.variants import Variant

ROWS = 3
SHARE = 5  # an inset shows a fifth of the picture's longer side
FRAME = "#d55e00"


def inset_picture(
    table: Table, variants: Sequence[Variant], sources: Sources | None, images: Sequence[str]
) -> Picture | None:
    """Draw test images as rows, sources and losses as columns, each over its enlarged part.

    The part is the square in which the losses' pictures of this image differ most (largest sum of their
    standard deviation, pixel by pixel), so that no hand has chosen it.

    Args:
        table: whose losses are shown, in its order.
        variants: the losses; the first seed of each is shown.
        sources: gives the two bands of an image, if they are at hand.
        images: the first three of these that all losses have saved are shown.
    """
    by_name = {variant.name: variant for variant in variants}
    order = [by_name[row.name] for row in table.losses]
    rows: list[tuple[dict[str, Image.Image], tuple[int, int, int]]] = []
    for image in images:
        fused = {variant.name: fused_picture(variant, image) for variant in order}
        whole = {name: picture for name, picture in fused.items() if picture is not None}
        if len(whole) == len(order) and len(rows) < ROWS:
            shown = {**(sources(image) if sources else {}), **whole}
            rows.append((shown, most_divided(list(whole.values()))))
    if not rows:
        return None
    columns = list(rows[0][0])
    titles, lines = wrapped(columns, 22)
    ratio = max(picture.height / picture.width for shown, _ in rows for picture in list(shown.values())[:1])

    def draw(figure: Figure) -> None:
        heights = [ratio, 1] * len(rows)
        grid = figure.subplots(2 * len(rows), len(columns), squeeze=False, height_ratios=heights)
        for place, (shown, (left, top, side)) in enumerate(rows):
            for column, name in enumerate(columns):
                picture = shown[name].convert("RGB")
                whole, part = grid[2 * place, column], grid[2 * place + 1, column]
                whole.imshow(picture)
                whole.add_patch(
                    Rectangle((left, top), side, side, fill=False, edgecolor=FRAME, linewidth=1.2)
                )
                part.imshow(picture.crop((left, top, left + side, top + side)), interpolation="nearest")
                for axes in (whole, part):
                    axes.set(xticks=[], yticks=[])
                    axes.grid(visible=False)
                part.spines[:].set(edgecolor=FRAME, visible=True)
                if place == 0:
                    whole.set_title(titles[column], fontsize=8)

    height = sum(1.35 * (ratio + 1) for _ in rows) + 0.3 + 0.15 * lines
    return Picture(
        "insets", f"Test images under {', '.join(columns)}", 1.35 * len(columns) + 0.2, height, draw
    )


def most_divided(pictures: Sequence[Image.Image]) -> tuple[int, int, int]:
    """Return left, top and side of the square in which pictures of one size differ most."""
    planes: Array = np.stack([np.asarray(picture.convert("L"), dtype=np.float64) for picture in pictures])
    height, width = planes.shape[1:]
    side = max(1, min(height, width, round(max(height, width) / SHARE)))
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = planes.std(axis=0).cumsum(axis=0).cumsum(axis=1)
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(left), int(top), side
