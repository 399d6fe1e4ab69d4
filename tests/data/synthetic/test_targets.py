"""People and cars that run are warm and marked; a parked car is neither."""

from collections.abc import Callable

import numpy as np
import pytest

from clipfuse.data.synthetic.canvas import ALBEDO, HEAT, LIGHT, TARGET, Canvas
from clipfuse.data.synthetic.targets import ALONG, SIZES, UP, Car, Person

Make = Callable[..., Canvas]


def car(**fields: object) -> Car:
    plain = {"x": 0.0, "z": 9.0, "yaw": 0.0, "kind": "sedan", "color": (0.5, 0.1, 0.1), "cold": 10.0}
    return Car(**(plain | {"running": True, "lights": False} | fields))


def person(**fields: object) -> Person:
    plain = {"x": 0.0, "z": 6.0, "height": 1.8, "turn": 0.0, "stride": 0.1, "coat": (0.1, 0.1, 0.4)}
    return Person(**(plain | {"trousers": (0.1, 0.1, 0.1), "clothes": 20.0} | fields))


def test_a_running_car_is_a_warm_target_and_a_parked_one_is_not(canvas: Make) -> None:
    running, parked = canvas(), canvas()
    car().paint(running)
    car(running=False).paint(parked)
    mask = running.buffer[..., TARGET] > 0.5
    assert mask.mean() > 0.01
    assert parked.buffer[..., TARGET].max() == 0
    assert (running.buffer[mask][:, HEAT] - parked.buffer[mask][:, HEAT]).mean() > 5
    # Where it stands the street is no longer seen, whichever it is.
    assert np.abs(running.buffer[..., ALBEDO] - parked.buffer[..., ALBEDO]).max() < 0.1


@pytest.mark.parametrize("kind", SIZES)
def test_each_kind_has_its_size_and_a_closed_outline(canvas: Make, kind: str) -> None:
    assert len(ALONG[kind]) == len(UP[kind])
    street = canvas()
    car(kind=kind).paint(street)
    rows, columns = np.nonzero(street.buffer[..., TARGET] > 0.5)
    _, width, height = SIZES[kind]
    scale = street.camera.scale(9 - SIZES[kind][0] / 2)  # of its rear
    assert np.ptp(columns) == pytest.approx(width * scale, rel=0.15)
    assert np.ptp(rows) == pytest.approx(height * scale, rel=0.35)


def test_a_car_is_turned_about_its_centre() -> None:
    length = SIZES["sedan"][0]
    ends = [(0, 0, 0.5), (length, 0, 0.5)]
    for yaw, along in ((0, (0, 1)), (np.pi, (0, -1)), (np.pi / 2, (1, 0))):
        rear, front = car(x=1.0, yaw=yaw).place(ends)
        assert (rear + front) / 2 == pytest.approx((1, 0.5, 9), abs=1e-5)
        assert (front - rear)[[0, 2]] / length == pytest.approx(along, abs=1e-5)


def test_lamps_give_light_only_where_they_are_on(canvas: Make) -> None:
    light = []
    for on in (True, False):
        for yaw in (0, np.pi):
            street = canvas()
            car(lights=on, yaw=yaw).paint(street)
            light.append(street.buffer[..., LIGHT].max(axis=(0, 1)))
    away, towards, *off = light
    assert away[0] > 1 > away[2]  # red at the rear
    assert towards.min() > 4  # white in front
    assert (np.array(off) == 0).all()


def test_what_is_out_of_view_is_not_painted(canvas: Make) -> None:
    street = canvas()
    before = street.buffer.copy()
    car(x=50.0).paint(street)
    person(x=50.0).paint(street)
    assert (street.buffer == before).all()


def test_a_person_is_a_target_whose_head_is_warmest(canvas: Make) -> None:
    street = canvas()
    person().paint(street)
    rows, _ = np.nonzero(street.buffer[..., TARGET] > 0.5)
    assert np.ptp(rows) == pytest.approx(1.8 * street.camera.scale(6), rel=0.1)

    def warmest(low: float, high: float) -> float:
        top, bottom = (int(street.camera.project([(0, y, 6)])[0, 1]) for y in (high, low))
        return float(street.buffer[top:bottom, 54:74, HEAT].max())

    assert warmest(1.55, 1.75) > 27 > warmest(0.95, 1.35) > 17  # skin, coat


def test_the_sun_casts_a_shadow(canvas: Make) -> None:
    for thing in (car, person):
        lit, overcast = canvas(), canvas()
        for street, sun in ((lit, (1.2, 0.0)), (overcast, None)):
            street.buffer[..., ALBEDO] = 0.5
            thing(sun=sun).paint(street)
        ground = slice(70, 128)
        assert (lit.buffer[ground, :, 0] < 0.4).sum() > 1.1 * (overcast.buffer[ground, :, 0] < 0.4).sum()
