"""The colours of classes, and boxes of strangers."""

import math

import pytest
import torch

from clipfuse.ops.drawing import class_colors, draw_boxes, paint_classes
from clipfuse.types import LabelSet

LABELS = LabelSet(("ground", "person", "car"), 0, ((0, 0, 0), (200, 0, 0), (0, 0, 90)))


def test_classes_without_a_palette_have_colours_of_their_own() -> None:
    colors = class_colors(LabelSet(tuple(map(str, range(40))), background=3))
    assert len(set(colors)) == 40
    assert all(0 <= value <= 255 for color in colors for value in color)
    assert colors[3] == (0, 0, 0)
    assert class_colors(LABELS) == list(LABELS.palette)


def test_a_map_is_laid_over_an_image() -> None:
    image = torch.full((3, 1, 3), 100, dtype=torch.uint8)
    painted = paint_classes(image, LABELS, torch.tensor([[0, 1, 255]]))
    assert painted[:, 0].T.tolist() == [
        [100, 100, 100],
        [160, 40, 40],
        [100, 100, 100],
    ]  # 0.4 x 100 + 0.6 x it


def test_objects_are_dashed_and_named_where_they_stand_alone() -> None:
    image = torch.zeros(3, 60, 60, dtype=torch.uint8)
    objects = [[10.0, 30.0, 40.0, 50.0, 2]]
    alone, found = draw_boxes(image, LABELS, objects), draw_boxes(image, LABELS, objects, [])
    assert alone[2, 30, 10:24].tolist() == [204, 204, 204, 204, 0, 0, 0] * 2  # the palette's 90 is brightened
    assert alone[:, :30].any()
    assert not found[:, :30].any()  # no name
    assert torch.equal(found[:, 30:], alone[:, 30:])


@pytest.mark.parametrize(
    "odd", [[1e9, 1e9, -1e9, -1e9], [math.nan, 0, 5, 5], [0, 0, math.inf, 4], [5, 5, 5, 5]]
)
def test_no_box_is_too_odd_to_be_drawn(odd: list[float]) -> None:
    image = torch.zeros(3, 20, 20, dtype=torch.uint8)
    drawn = draw_boxes(image, LABELS, [[*odd, 1]], [[*odd, 0.9, 2]], [False])
    assert drawn.shape == image.shape
    assert bool(drawn.any()) == (max(map(abs, odd)) < 100)
