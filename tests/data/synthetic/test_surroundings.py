"""What stands beside the road: in its place, with its heat and its light, and never a target."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from clipfuse.data.synthetic.canvas import ALBEDO, DEPTH, FAR, HEAT, LIGHT, TARGET, Canvas, Material
from clipfuse.data.synthetic.surroundings import Building, Plant, Post

Make = Callable[..., Canvas]
WALL = Material((0.4, 0.35, 0.3), 16.0, grain=0.05)
LEAVES = Material((0.06, 0.1, 0.04), 9.0)
METAL = Material((0.2, 0.2, 0.2), 11.0)
HOUSE = Building(5.0, 8.0, 12.0, 8.0, 6.0, 0.0, WALL, (1.0, 0.8), 0.0)


def painted(street: Canvas) -> np.ndarray:
    return street.buffer[..., DEPTH] < FAR


def test_a_house_stands_on_its_side_of_the_road_at_its_distance(canvas: Make) -> None:
    street = canvas(focal=0.6)
    HOUSE.paint(street)
    here = painted(street)
    assert here.mean() > 0.05
    assert not here[:, :64].any()
    depths = street.buffer[here][:, DEPTH]
    near = depths[depths < 22]  # at its outline it is mixed with what is far away
    assert len(near) > 0.8 * len(depths)
    assert (near.min(), near.max()) == pytest.approx((8, 20), abs=2)
    assert street.buffer[..., TARGET].max() == 0
    mirrored = canvas(focal=0.6)
    replace(HOUSE, x=-5.0).paint(mirrored)
    assert not painted(mirrored)[:, 65:].any()


def test_a_roof_is_higher_than_the_wall(canvas: Make) -> None:
    tops = []
    for roof in (0.0, 2.0):
        street = canvas()
        replace(HOUSE, roof=roof, x=4.0, z=25.0).paint(street)
        tops.append(int(np.nonzero(painted(street))[0].min()))
    assert tops[1] < tops[0]


def test_lit_windows_give_light(canvas: Make) -> None:
    dark, lit = canvas(), canvas()
    HOUSE.paint(dark)
    replace(HOUSE, lit=1.0).paint(lit)
    assert dark.buffer[..., LIGHT].max() == 0
    shining = lit.buffer[..., 3] > 0.05
    assert 0.05 < shining.sum() / painted(lit).sum() < 0.7
    assert lit.buffer[shining][:, HEAT].mean() > dark.buffer[shining][:, HEAT].mean()


def test_a_tree_has_a_trunk_and_a_bush_has_none(canvas: Make) -> None:
    tree, bush = canvas(), canvas()
    Plant(0.0, 10.0, 3.0, 2.5, 1.5, 0.2, LEAVES).paint(tree)
    Plant(0.0, 10.0, 3.0, 2.5, 0.0, 0.2, LEAVES).paint(bush)
    low = int(tree.camera.project([(0, 0.5, 10)])[0, 1])
    widths = [int(painted(street)[low].sum()) for street in (tree, bush)]
    assert 3 <= widths[0] <= 6
    assert widths[1] > 2 * widths[0]
    crown = int(tree.camera.project([(0, 2.2, 10)])[0, 1])
    assert tree.buffer[crown, 64, ALBEDO][1] > tree.buffer[crown, 64, ALBEDO][0]  # green
    assert (tree.buffer[..., TARGET] == 0).all()


def test_a_lamp_gives_the_light_it_has_above_the_road(canvas: Make) -> None:
    for glow in ((5.0, 3.4, 1.3), (0.0, 0.0, 0.0)):
        street = canvas(horizon=0.6)
        Post(3.0, 12.0, 5.8, "lamp", METAL, glow).paint(street)
        head = street.camera.project([(3.0 - 1.3, 5.9, 12)])[0].astype(int)
        assert street.buffer[..., LIGHT].max(axis=(0, 1)) == pytest.approx(glow)
        assert street.buffer[head[1], head[0], DEPTH] == 12
        assert street.buffer[head[1], head[0], HEAT] == pytest.approx(0.95 * (11 + 6 * (glow[0] > 0)) - 1)


def test_wires_lead_to_the_next_pole_and_hang_between(canvas: Make) -> None:
    street = canvas(size=256, horizon=0.6)
    Post(2.0, 10.0, 8.0, "wires", METAL, gap=20.0).paint(street)
    for share in (0.25, 0.5, 0.75):
        height, z = 8 - 0.4 - 3.2 * share * (1 - share), 10 + 20 * share
        for across in (-0.9, 0.9):
            column, row = street.camera.project([(2 + across, height, z)])[0].astype(int)
            assert painted(street)[row - 2 : row + 3, column - 2 : column + 3].any()


def test_a_sign_has_the_paint_of_two_colours(canvas: Make) -> None:
    street = canvas()
    Post(1.0, 6.0, 2.2, "sign", METAL).paint(street)
    column, row = street.camera.project([(1.0, 2.2, 6)])[0].astype(int)
    assert street.buffer[row, column, DEPTH] == 6
    patch = street.buffer[row - 6 : row + 7, column - 6 : column + 7, ALBEDO].reshape(-1, 3)
    assert len(np.unique(patch.round(2), axis=0)) > 3
