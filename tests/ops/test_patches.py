import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from clipfuse.ops.patches import PatchPlaces, affine_places, cut_patches, perspective_places, random_views

SHAPE = (40, 56)
BOTH = pytest.mark.parametrize("draw", [affine_places, perspective_places])
Draw = Callable[..., PatchPlaces]


def position(shape: tuple[int, int] = SHAPE, number: int = 1) -> Tensor:
    """Images whose two channels hold the row and the column of each pixel's center."""
    rows, columns = (torch.arange(side, dtype=torch.float64) + 0.5 for side in shape)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij")).repeat(number, 1, 1, 1)


def test_the_whole_image_is_itself() -> None:
    image = torch.rand(1, 2, 24, 24, dtype=torch.float64)
    places = affine_places((24, 24), [0], 1, sides=(1, 1), degrees=0, zoom=1, shear=0)
    torch.testing.assert_close(cut_patches(image, places, (24, 24)), image)


def test_patches_are_small_affine_views_inside_the_image() -> None:
    places = affine_places(SHAPE, range(50), 8)
    patches = cut_patches(position(number=50), places, (16, 16))
    assert patches.shape == (400, 2, 16, 16)
    assert patches[:, 0].min() >= 0.5 - 1e-9
    assert patches[:, 0].max() <= SHAPE[0] - 0.5 + 1e-9
    assert patches[:, 1].max() <= SHAPE[1] - 0.5 + 1e-9
    # Away from the border, where nothing is repeated, steps are constant: an affine map.
    across = patches[..., 8, 12] - patches[..., 8, 4]
    length, angle = across.norm(dim=1) * 2, torch.atan2(across[:, 0], across[:, 1]).rad2deg()
    assert 0.5 / 1.5 * 40 < length.min() < 0.4 * 40
    assert 0.7 * 40 < length.max() <= 0.8 * 40
    assert angle.abs().max() <= 5
    assert angle.std() > 2
    down = patches[..., 12, 8] - patches[..., 4, 8]
    between = torch.atan2(down[:, 1], down[:, 0]).rad2deg() + angle
    assert 4 < between.abs().max() <= 5 + 1e-9  # the shear
    center = patches[..., 7:9, 7:9].mean(dim=(2, 3)) / torch.tensor(SHAPE)
    assert center.std(dim=0).min() > 0.05


@BOTH
def test_each_image_has_its_own_patches_whatever_its_company(draw: Draw) -> None:
    image = torch.rand(1, 1, *SHAPE)
    whole = cut_patches(image.repeat(3, 1, 1, 1), draw(SHAPE, [5, 6, 7], 4), (8, 8))
    alone = cut_patches(image, draw(SHAPE, [6], 4), (8, 8))
    torch.testing.assert_close(whole[4:8], alone, rtol=0, atol=1e-6)
    assert all(not torch.allclose(one, other) for i, one in enumerate(whole) for other in whole[:i])


@BOTH
def test_all_planes_of_a_sample_are_cut_alike(draw: Draw) -> None:
    first, second = torch.rand(2, 2, 1, *SHAPE)
    places = draw(SHAPE, [1, 2], 5)
    together = cut_patches(torch.cat([first, second], dim=1), places, (9, 11))
    for part, alone in ((together[:, :1], first), (together[:, 1:], second)):
        # float32 sums of four weighted pixels below 1, which the number of planes may reorder.
        torch.testing.assert_close(part, cut_patches(alone, places, (9, 11)), rtol=0, atol=1e-6)


@BOTH
def test_gradient_is_that_of_a_linear_map(draw: Draw) -> None:
    image = torch.rand(1, 1, 9, 9, dtype=torch.float64, requires_grad=True)
    places = draw((9, 9), [3], 2)
    assert torch.autograd.gradcheck(lambda each: cut_patches(each, places, (4, 4)), (image,))


def test_perspective_has_two_sizes_before_black() -> None:
    places = perspective_places((256, 256), [0, 1], 40)
    patches = cut_patches(position((256, 256), 2), places, (224, 224)).unflatten(0, (2, 40))
    inside = (patches > 0).all(dim=2, keepdim=True)
    low, high = (torch.where(inside, patches, fill) for fill in (math.inf, -math.inf))
    rows = high.amax(dim=(3, 4)) - low.amin(dim=(3, 4))
    assert rows[:, :24].amax() <= 64
    assert rows[:, :24].amin() > 60
    assert rows[:, 24:].amax() <= 128
    assert rows[:, 24:].amin() > 124
    black = 1 - inside.double().mean()
    # Each corner moves in by a quarter on average: a little more than 1 - (3/4)^2 is black.
    assert 0.35 < float(black) < 0.55


def test_large_patches_are_averaged() -> None:
    stripes = torch.zeros(1, 1, 64, 64)
    stripes[..., ::2] = 1
    places = affine_places((64, 64), [0], 1, sides=(1, 1), degrees=0, zoom=1, shear=0)
    torch.testing.assert_close(cut_patches(stripes, places, (16, 16)), torch.full((1, 1, 16, 16), 0.5))


def test_each_image_has_a_view_of_its_seed() -> None:
    """Seven tenths or more of its shorter side, and a flat image stays flat."""
    views = random_views(position((40, 40), 3), [1, 2, 1], (24, 24))
    assert views.shape == (3, 2, 24, 24)
    assert torch.equal(views[0], views[2])
    assert not torch.allclose(views[0], views[1])
    spread = views.amax(dim=(2, 3)) - views.amin(dim=(2, 3))
    assert ((spread > 0.55 * 40) & (spread < 40)).all()
    flat = torch.full((1, 1, 40, 40), 0.3)
    torch.testing.assert_close(random_views(flat, [5], (24, 24)), torch.full((1, 1, 24, 24), 0.3))
