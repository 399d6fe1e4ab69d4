"""Test images with a zoomed inset, as papers show them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from clipfuse.comparison.album import Sources, fused_image
from clipfuse.comparison.plots import Drawing, wrap_names
from clipfuse.comparison.statistics import Array
from clipfuse.comparison.table import Table
from clipfuse.comparison.variants import Variant
from clipfuse.errors import UserError

ROWS = 3
SHARE = 5  # an inset shows a fifth of the longer side of its image
FRAME = "#d55e00"
_FLATTEST = 0.25


def draw_insets(table: Table, variants: Sequence[Variant], sources: Sources | None) -> Drawing | None:
    """Draw test images as rows, sources and losses as columns, each over its enlarged part.

    The part is the square in which the losses' images of this pair differ most (largest sum of their standard
    deviation, pixel by pixel), so that nobody has chosen it.

    Args:
        table: the comparison; its losses are shown in its order, on the first three test images that all
            losses have saved.
        variants: the losses; the first seed of each is shown.
        sources: gives infrared and visible image of a test pair, if they are at hand.
    """
    by_name = {variant.name: variant for variant in variants}
    rows: list[tuple[dict[str, Image.Image], tuple[int, int, int]]] = []
    for name in table.images:
        if len(rows) == ROWS:
            break
        try:
            fused = {row.name: fused_image(by_name[row.name], name) for row in table.losses}
        except UserError:
            continue  # the report names what cannot be read
        found = {key: image for key, image in fused.items() if image is not None}
        if len(found) == len(fused) and len({image.size for image in found.values()}) == 1:
            shown = {**(sources(name) if sources else {}), **found}
            rows.append((shown, most_divided(list(found.values()))))
    if not rows:
        return None
    columns = list(rows[0][0])
    titles, lines = wrap_names(columns, 22)
    ratios = (image.height / image.width for shown, _ in rows for image in list(shown.values())[:1])
    ratio = min(max(*ratios, _FLATTEST), 1 / _FLATTEST)  # of the row, whatever a strip's own ratio is

    def draw(figure: Figure) -> None:
        heights = [ratio, 1] * len(rows)
        grid = figure.subplots(2 * len(rows), len(columns), squeeze=False, height_ratios=heights)
        for place, (shown, (left, top, side)) in enumerate(rows):
            for column, name in enumerate(columns):
                image = shown[name].convert("RGB")
                whole, part = grid[2 * place, column], grid[2 * place + 1, column]
                whole.imshow(image)
                whole.add_patch(
                    Rectangle((left, top), side, side, fill=False, edgecolor=FRAME, linewidth=1.2)
                )
                part.imshow(image.crop((left, top, left + side, top + side)), interpolation="nearest")
                for axes in (whole, part):
                    axes.set(xticks=[], yticks=[])
                    axes.grid(visible=False)
                part.spines[:].set(edgecolor=FRAME, visible=True)
                if place == 0:
                    whole.set_title(titles[column], fontsize=8)

    height = 1.35 * (ratio + 1) * len(rows) + 0.3 + 0.15 * lines
    label = f"Test images under {', '.join(columns)}"
    return Drawing("insets", label, 1.35 * len(columns) + 0.2, height, draw)


def most_divided(images: Sequence[Image.Image]) -> tuple[int, int, int]:
    """Return left, top and side, in pixels, of the square in which images of one size differ most."""
    planes: Array = np.stack([np.asarray(image.convert("L"), dtype=np.float64) for image in images])
    height, width = planes.shape[1:]
    side = max(1, min(height, width, round(max(height, width) / SHARE)))
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = planes.std(axis=0).cumsum(axis=0).cumsum(axis=1)
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(left), int(top), side
