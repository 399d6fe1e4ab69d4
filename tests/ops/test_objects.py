import pytest
import torch

from clipfuse.ops.objects import components, draw_objects, object_windows
from clipfuse.ops.patches import cut_patches
from clipfuse.types import IGNORED, Boxes


def boxes(*rows: tuple[float, float, float, float, int]) -> Boxes:
    found = torch.tensor([row[:4] for row in rows]).reshape(-1, 4)
    return Boxes(found, torch.tensor([int(row[4]) for row in rows], dtype=torch.int64))


def test_each_object_of_the_kinds_is_drawn_equally_often_and_no_other() -> None:
    one = boxes((0, 0, 2, 2, 4), (1, 1, 5, 5, 7), (2, 2, 3, 3, 4), (3, 3, 9, 9, 5))
    edges, places = draw_objects([one] * 600, (7, 4), range(600))
    assert torch.equal(draw_objects([one] * 600, (7, 4), range(600))[0], edges)
    counts = {index: int((edges == one.xyxy[index]).all(1).sum()) for index in range(4)}
    assert counts[3] == 0
    # Of 600 even draws among three, 200 each; the standard deviation is 12.
    assert all(150 < counts[index] < 250 for index in range(3))
    assert torch.equal(places, torch.where(edges[:, 2] == 5, 0, 1))


def test_an_image_without_such_an_object_is_marked() -> None:
    edges, places = draw_objects([boxes(), boxes((0, 0, 2, 2, 1)), boxes((4, 5, 6, 7, 3))], (3,), (0, 1, 2))
    assert places.tolist() == [-1, -1, 0]
    assert edges.tolist() == [[0] * 4, [0] * 4, [4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((30, 20, 46, 28), (12, 36), (26, 50)),  # 1.5 times 16
        ((30, 20, 34, 22), (9, 33), (20, 44)),  # 24 at least
        ((0, 0, 8, 20), (0, 30), (0, 30)),  # moved into the image
        ((70, 30, 80, 40), (16, 40), (56, 80)),
        ((0, 0, 80, 40), (0, 40), (20, 60)),  # the shorter side at most
    ],
)
def test_a_window_is_a_square_about_its_object(
    box: tuple[int, ...], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    """The window at its own resolution is a cut of the image, to float64 rounding."""
    image = torch.rand(1, 1, 40, 80, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    side = rows[1] - rows[0]
    found = cut_patches(image, object_windows((40, 80), torch.tensor([box])), (side, side))
    expected = image[..., rows[0] : rows[1], columns[0] : columns[1]]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_window_does_not_depend_on_those_beside_it() -> None:
    """A window of 24 px beside one of 200, which is sampled more densely: as on two ranks."""
    images = torch.rand(3, 1, 200, 240, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    edges = torch.tensor([(30, 20, 40, 30), (0, 0, 180, 180), (80, 20, 90, 36)])
    together = cut_patches(images, object_windows((200, 240), edges), (48, 48))
    for index in range(3):
        one = slice(index, index + 1)
        alone = cut_patches(images[one], object_windows((200, 240), edges[one]), (48, 48))
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-12)


def test_parts_of_a_map_on_which_nothing_is_labelled_are_none() -> None:
    plane = torch.full((6, 8), IGNORED)
    plane[1:3, 2:6] = 3
    found = components(plane, (3,), smallest=8)
    assert found.xyxy.tolist() == [[2, 1, 6, 3]]
    assert found.classes.tolist() == [3]
    assert len(components(plane, (3,), smallest=9)) == 0
