"""Panels: which picture stands in which cell, under which caption."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipfuse.images import read_image
from clipfuse.ops.depth import to_unit
from clipfuse.tracking.pictures import draw_panel


def flat(*color: float, size: tuple[int, int] = (10, 20)) -> Tensor:
    return torch.tensor(color).view(-1, 1, 1).expand(-1, *size)


def test_each_image_stands_in_its_cell_under_its_caption() -> None:
    rows = [
        [flat(0.2), flat(1.0, 0.0, 0.0), flat(0.0)],
        [flat(0.4, size=(10, 8)), flat(0.0, 1.0, 0.0, size=(10, 8)), flat(0.6, size=(10, 8))],
    ]
    panel = np.asarray(draw_panel(["one", "", "three"], rows, cell_height=40)).astype(int)
    height, width, _ = panel.shape
    colors = [[(51,) * 3, (255, 0, 0), (0,) * 3], [(102,) * 3, (0, 255, 0), (153,) * 3]]
    # Each column is a third of the width; above two rows of 40 pixels, with margins, stand the captions.
    for row, line in zip(colors, (height - 70, height - 25), strict=True):
        for index, color in enumerate(row):
            assert tuple(panel[line, width * (2 * index + 1) // 6]) == color
    # Cells are as wide as the image, 80 pixels and 32.
    for color, pixels in (((255, 0, 0), 40 * 80), ((0, 255, 0), 40 * 32)):
        assert (panel == color).all(axis=2).sum() == pixels
    dark = (panel[: height - 100] < 128).any(axis=(0, 2))
    assert [bool(part.any()) for part in np.array_split(dark, 3)] == [True, False, True]


def test_the_panel_of_a_run_shows_infrared_visible_fused_luma_and_colour(
    trained: Path, pairs_folder: Path
) -> None:
    folders = (
        pairs_folder / "test/ir",
        pairs_folder / "test/vi",
        trained / "test/fused",
        trained / "test/color",
    )
    rows = [[to_unit(read_image(folder / f"test-{index}.png")) for folder in folders] for index in range(2)]
    assert [plane.shape[0] for plane in rows[0]] == [1, 3, 1, 3]
    expected = draw_panel(["infrared", "visible", "fused luma", "fused"], rows)
    # Rounded bytes on both sides.
    assert np.array_equal(np.asarray(Image.open(trained / "test/panel.png")), np.asarray(expected))
