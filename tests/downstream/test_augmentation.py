import pytest
import torch

from clipfuse.downstream.augmentation import augmented
from clipfuse.downstream.base import Example
from clipfuse.types import Boxes


def example(height: int = 60, width: int = 80) -> Example:
    """Two rectangles of one value each; the map of classes and the boxes show the same."""
    classes = torch.zeros(height, width, dtype=torch.uint8)
    corners = torch.tensor([[10, 12, 34, 40], [50, 20, 70, 52]])
    for number, (left, top, right, bottom) in enumerate(corners.tolist(), 1):
        classes[top:bottom, left:right] = number
    return Example(
        "a", "s", (classes * 100).expand(3, -1, -1), classes, Boxes(corners.float(), torch.tensor([1, 2]))
    )


@pytest.mark.parametrize("seed", range(12))
def test_image_map_and_boxes_move_together(seed: int) -> None:
    moved = augmented(example(), (48, 64), (0.7, 2.0), seed)
    assert moved.image.shape == (3, 48, 64)
    assert moved.image.dtype == torch.uint8
    assert moved.classes is not None
    assert moved.classes.shape == (48, 64)
    assert moved.boxes is not None
    assert set(moved.classes.unique().tolist()) <= {0, 1, 2, 255}
    # The image says what the map says, but for a pixel beside each edge, where bilinear values lie between.
    labelled = moved.classes != 255
    apart = ((moved.image[0].float() - 100 * moved.classes) * labelled).abs() > 50
    assert apart.float().mean() < 0.03
    for box, number in zip(moved.boxes.xyxy, moved.boxes.classes, strict=True):
        rows, columns = (moved.classes == number).nonzero(as_tuple=True)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert torch.stack(found).float() == pytest.approx(box, abs=1.01)  # a pixel's rounding on each side


def test_draws_depend_on_the_seeds_alone() -> None:
    first, again = (augmented(example(), (32, 32), (1, 2), 5, 7, "a") for _ in range(2))
    other = augmented(example(), (32, 32), (1, 2), 5, 8, "a")
    assert torch.equal(first.image, again.image)
    assert not torch.equal(first.image, other.image)
    four = Example("a", "s", torch.cat([example().image, example().image[:1]]), example().classes)
    assert torch.equal(augmented(four, (32, 32), (1, 2), 5, 7, "a").image[:3], first.image)


def test_a_window_larger_than_the_image_continues_it_without_labels() -> None:
    moved = augmented(example(), (60, 80), (0.5, 0.5), 0)
    assert moved.classes is not None
    assert moved.boxes is not None
    assert (moved.classes == 255).sum() == 60 * 80 * 3 // 4
    assert (moved.image[0][moved.classes == 255] == 128).float().mean() > 0.95
    assert len(moved.boxes) == 2


def test_objects_that_are_mostly_outside_are_left_out() -> None:
    counts = {len(augmented(example(), (20, 20), (1, 1), seed).boxes or ()) for seed in range(30)}
    assert counts == {0, 1}
    nothing = Example("a", "s", example().image, None, Boxes(torch.zeros(0, 4), torch.zeros(0).long()))
    moved = augmented(nothing, (20, 20), (1, 2), 0)
    assert moved.classes is None
    assert moved.boxes is not None
    assert moved.boxes.xyxy.shape == (0, 4)


def test_flips_can_be_left_out() -> None:
    whole = example()
    for seed in range(6):
        assert torch.equal(augmented(whole, (60, 80), (1, 1), seed, flip=False).image, whole.image)
    flipped = [augmented(whole, (60, 80), (1, 1), seed).image for seed in range(6)]
    assert any(torch.equal(each, whole.image.flip(2)) for each in flipped)
