"""Sky, horizon and ground, one at a time."""

from collections.abc import Callable

import numpy as np
import pytest

from clipfuse.data.synthetic.backdrop import Ground, Ridge, Sky
from clipfuse.data.synthetic.canvas import ALBEDO, DEPTH, FAR, HEAT, LIGHT, Canvas, Material

Make = Callable[..., Canvas]
HORIZON = int(0.4 * 128)
ASPHALT = Material((0.1, 0.1, 0.1), 12.0)
PAVING = Material((0.3, 0.3, 0.3), 14.0)
GRASS = Material((0.05, 0.2, 0.05), 8.0)


def sky(**fields: object) -> Sky:
    plain = {"zenith": (0.1, 0.2, 0.6), "skyline": (0.8, 0.8, 0.8), "clouds": 0.0, "air": 10.0, "cold": 30.0}
    return Sky(**(plain | {"sun": None, "stars": False} | fields))


def ground(**fields: object) -> Ground:
    plain = {"half": 4.0, "pavement": 2.0, "asphalt": ASPHALT, "paving": PAVING, "verge": GRASS}
    plain |= {"marking": (0.9, 0.9, 0.9), "centre": "none", "crossing": None, "wear": 0.0}
    return Ground(**(plain | fields))


def at(street: Canvas, x: float, z: float) -> np.ndarray:
    """The buffer where a point of the ground is seen."""
    column, row = np.rint(street.camera.project([(x, 0, z)])[0] - 0.01).astype(int)
    return street.buffer[row, column]


def test_the_sky_is_blue_and_cold_above_and_hazy_at_the_horizon(canvas: Make) -> None:
    street = canvas()
    sky().paint(street)
    top, low = street.buffer[0, 64], street.buffer[HORIZON - 1, 64]
    assert top[LIGHT][2] > 2 * top[LIGHT][0]
    assert low[LIGHT] == pytest.approx((0.8, 0.8, 0.8), abs=0.1)
    assert top[HEAT] < low[HEAT] - 15 < 10
    assert (street.buffer[..., DEPTH] == FAR).all()
    assert (street.buffer[HORIZON + 4 :, :, LIGHT] == 0).all()


def test_clouds_are_warmer_than_the_clear_sky_and_hide_stars(canvas: Make) -> None:
    clear, cloudy, starry, veiled = (canvas() for _ in range(4))
    for street, one in (
        (clear, sky()),
        (cloudy, sky(clouds=1.0)),
        (starry, sky(stars=True)),
        (veiled, sky(stars=True, clouds=1.0)),
    ):
        one.paint(street)
    upper = slice(0, 30)
    assert cloudy.buffer[upper, :, HEAT].mean() > clear.buffer[upper, :, HEAT].mean() + 3
    stars, behind = (
        (a.buffer[upper, :, LIGHT] - b.buffer[upper, :, LIGHT]).max(axis=2).sum()
        for a, b in ((starry, clear), (veiled, cloudy))
    )
    assert stars > 2 * behind >= 0


def test_the_sun_glares_where_it_stands(canvas: Make) -> None:
    street = canvas()
    sky(sun=(0.25, 0.1), clouds=0.0).paint(street)
    brightest = np.unravel_index(street.buffer[:HORIZON, :, LIGHT].sum(axis=2).argmax(), (HORIZON, 128))
    assert brightest == pytest.approx((0.1 * 128, 0.25 * 128), abs=4)


@pytest.mark.parametrize("blocky", [False, True])
def test_a_ridge_stands_on_the_horizon_at_its_distance(canvas: Make, blocky: bool) -> None:
    street = canvas()
    Ridge(100.0, 20.0, blocky, Material((0.2, 0.2, 0.2), 5.0)).paint(street)
    rows, columns = np.nonzero(street.buffer[..., DEPTH] == 100)
    assert len(np.unique(columns)) > 110
    highest = int(street.camera.project([(0, 20 * 1.2, 100)])[0, 1])
    assert highest - 1 <= rows.min() < HORIZON <= rows.max() <= HORIZON + 3


def test_road_pavement_and_verge_lie_side_by_side(canvas: Make) -> None:
    street = canvas()
    ground().paint(street)
    for x, material in ((1.5, ASPHALT), (5.2, PAVING), (8.0, GRASS)):
        for side in (-1, 1):
            seen = at(street, side * x, 25)
            assert seen[ALBEDO] == pytest.approx(material.albedo, rel=0.5, abs=0.02)
            assert seen[HEAT] == pytest.approx(material.temperature * 0.95 - 1, abs=1.5)
    depths = street.buffer[HORIZON + 3 :, 64, DEPTH]
    assert (np.diff(depths) < 0).all()
    assert at(street, 0, 12)[DEPTH] == pytest.approx(12, rel=0.1)


def test_lines_and_a_crossing_are_painted(canvas: Make) -> None:
    bright = {}
    for kind in ("none", "dashed", "double"):
        street = canvas(size=256)
        ground(centre=kind).paint(street)
        column = 128
        rows = slice(int(street.camera.project([(0, 0, 9)])[0, 1]), 250)
        bright[kind] = (street.buffer[rows, column - 20 : column + 21, 0].max(axis=1) > 0.4).mean()
    assert bright["none"] == 0
    assert 0.1 < bright["dashed"] < 0.9 < bright["double"]
    plain, crossed = canvas(size=256), canvas(size=256)
    ground().paint(plain)
    ground(crossing=10.0).paint(crossed)
    row = int(plain.camera.project([(0, 0, 10)])[0, 1])
    assert (plain.buffer[row, :, 0] > 0.5).mean() < 0.05
    assert (crossed.buffer[row, :, 0] > 0.5).mean() > 0.15


def test_wear_warms_the_wheel_tracks(canvas: Make) -> None:
    """Tracks lie 0.75 m beside the middle of a lane."""
    new, worn = canvas(size=256), canvas(size=256)
    ground().paint(new)
    ground(wear=1.0).paint(worn)
    warmer = [
        np.mean([at(worn, x, z)[HEAT] - at(new, x, z)[HEAT] for z in (8, 10, 12, 14)]) for x in (2.75, 2.0)
    ]
    assert warmer[0] > warmer[1] + 0.3
