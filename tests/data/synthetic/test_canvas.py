"""The scene buffer: where points fall, and what filling, shading and warping do to it."""

from collections.abc import Callable

import numpy as np
import pytest

from clipfuse.data.synthetic.canvas import (
    ALBEDO,
    CHANNELS,
    DEPTH,
    HEAT,
    TARGET,
    Canvas,
    Material,
    box,
    smooth,
    tint,
)

Make = Callable[..., Canvas]
GRAY = Material((0.2, 0.3, 0.4), 30.0, emissivity=0.9)


def quad(z: float, left: float, right: float, low: float, high: float) -> list[tuple[float, float, float]]:
    return [(x, y, z) for x, y in box(left, right, low, high)]


def test_a_point_projected_is_found_again_at_its_distance(canvas: Make) -> None:
    camera = canvas(lateral=0.7, bend=0.002).camera
    depth = np.full((128, 128), 12.0, np.float32)
    x, y = camera.unproject(depth)
    for row, column in ((0, 0), (40, 100), (127, 3)):
        point = (x[0, column], y[row, 0], 12.0)
        assert camera.project([point])[0] == pytest.approx((column, row), abs=1e-2)
    lower = camera.unproject(depth[30:], top=30)[1]
    assert np.allclose(lower, y[30:])


def test_a_bend_moves_what_is_far_away(canvas: Make) -> None:
    straight, bent = canvas().camera, canvas(bend=0.01).camera
    near, far = [(0, 0, 5.0)], [(0, 0, 20.0)]
    moved = [(bent.project(point) - straight.project(point))[0, 0] for point in (near, far)]
    # b z^2 metres at f S / z pixels per metre.
    assert moved == pytest.approx([0.01 * z * 1.2 * 128 for z in (5, 20)], rel=1e-4)


def test_a_filled_quad_has_the_material_and_the_rest_is_left(canvas: Make) -> None:
    street = canvas()
    before = street.buffer.copy()
    street.shares.begin("person", target=True)
    street.fill(quad(8.0, -1, 1, 0.5, 2.5), GRAY, tone=0.5)
    inside = street.buffer[..., TARGET] == 1
    rows, columns = np.nonzero(inside)
    scale = street.camera.scale(8.0)
    assert (np.ptp(columns), np.ptp(rows)) == pytest.approx((2 * scale, 2 * scale), abs=2)
    assert street.buffer[inside][:, ALBEDO] == pytest.approx(0.5 * np.tile(GRAY.albedo, (inside.sum(), 1)))
    # What it does not emit it mirrors of the sky.
    assert street.buffer[inside][:, HEAT] == pytest.approx(0.9 * 30 + 0.1 * -20)
    assert (street.buffer[inside][:, DEPTH] == 8).all()
    outside = street.buffer[..., TARGET] == 0
    assert outside.sum() > 0.8 * 128**2
    assert (street.buffer[outside] == before[outside]).all()


def test_the_flanks_and_the_bottom_may_be_darker(canvas: Make) -> None:
    plain, faded, rounded = canvas(), canvas(), canvas()
    shape = quad(6.0, -1, 1, 0.5, 2.5)
    plain.fill(shape, GRAY)
    faded.fill(shape, GRAY, fade=0.5)
    rounded.fill(shape, GRAY, round=0.5)
    level = plain.buffer[..., 0]
    rows, columns = (sorted(set(axis)) for axis in np.nonzero(level > 0.19))
    middle = columns[len(columns) // 2]
    assert faded.buffer[rows[-3], middle, 0] < 0.6 * level[rows[-3], middle]
    assert faded.buffer[rows[2], middle, 0] > 0.9 * level[rows[2], middle]
    row = rows[len(rows) // 2]
    assert rounded.buffer[row, columns[1], 0] < 0.7 * level[row, columns[1]]
    assert rounded.buffer[row, middle, 0] > 0.98 * level[row, middle]


def test_what_lies_outside_of_the_picture_changes_nothing(canvas: Make) -> None:
    street = canvas()
    before = street.buffer.copy()
    street.shares.begin("person", target=True)
    street.fill(quad(8.0, 60, 62, 0, 2), GRAY)
    street.shadow(quad(8.0, 60, 62, 0, 2), 0.5, 0.1)
    street.warp(np.ones((4, 4, CHANNELS), np.float32), quad(8.0, 60, 62, 0, 2))
    assert (street.buffer == before).all()
    assert street.sees(0, 8, 1)
    assert not street.sees(60, 8, 1)
    assert street.coverage(street.camera.project(quad(8.0, 60, 62, 0, 2))) is None
    # Half of it may lie outside.
    street.stamp(-2, 126, np.ones((4, 4), np.float32), np.full((4, 4, CHANNELS), 7, np.float32))
    assert (street.buffer[126:, :2] == 7).all()
    assert (street.buffer[:126] == before[:126]).all()


def test_a_shadow_darkens_and_cools(canvas: Make) -> None:
    street = canvas()
    street.buffer[..., ALBEDO] = 0.5
    ground = [(-1, 0, 5), (1, 0, 5), (1, 0, 8), (-1, 0, 8)]
    street.shadow(ground, strength=0.6, softness=0.05, cooling=3)
    column, row = street.camera.project([(0, 0, 6)])[0].astype(int)
    assert street.buffer[row, column, ALBEDO] == pytest.approx([0.5 * 0.4] * 3, rel=0.02)
    assert street.buffer[row, column, HEAT] == pytest.approx(7, abs=0.1)
    assert street.buffer[..., 0].max() == 0.5
    assert street.buffer[0, 0, HEAT] == 10


def test_a_texture_is_seen_in_its_place(canvas: Make) -> None:
    street = canvas()
    texture = np.zeros((8, 8, CHANNELS), np.float32)
    texture[:4, :, 0], texture[4:, :, 0], texture[..., DEPTH] = 0.9, 0.1, 8
    corners = [(-1, 2.5, 8), (1, 2.5, 8), (1, 0.5, 8), (-1, 0.5, 8)]
    street.warp(texture, corners)
    for height, level in ((2.3, 0.9), (0.7, 0.1)):
        column, row = street.camera.project([(0, height, 8)])[0].astype(int)
        assert street.buffer[row, column, 0] == pytest.approx(level, abs=0.02)


def test_textures_have_mean_0_and_variance_1_whatever_their_size(canvas: Make) -> None:
    street = canvas()
    fields = [field(64, 64) for field in (street.texture, street.speckle) for _ in range(20)]
    assert all(field.shape == (64, 64) for field in fields)
    assert np.mean([field.mean() for field in fields]) == pytest.approx(0, abs=0.2)
    assert np.mean([field.var() for field in fields[20:]]) == pytest.approx(1, abs=0.05)
    assert 0.5 < np.mean([field.var() for field in fields[:20]]) < 1.5
    assert street.speckle(600, 20).shape == (600, 20)


def test_small_helpers() -> None:
    assert tint((0.2, 0.4, 1.0), 0.5, 0.1) == pytest.approx((0.2, 0.3, 0.6))
    square = np.array(box(0, 4, 0, 4), np.float32)
    rounded = smooth(square)
    assert rounded.shape == (8, 2)
    assert sorted(map(tuple, rounded)) == sorted(
        [(1, 0), (3, 0), (4, 1), (4, 3), (3, 4), (1, 4), (0, 3), (0, 1)]
    )
