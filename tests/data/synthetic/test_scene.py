"""What is drawn: conditions by their shares, things in view, none inside another, far before near."""

from collections import Counter

import numpy as np
import pytest

from clipfuse.data.synthetic.backdrop import Ground, Ridge, Sky
from clipfuse.data.synthetic.scene import CONDITIONS, Sampler, Scene
from clipfuse.data.synthetic.targets import SIZES, Car, Person

COUNT = 300


def sample(index: int) -> Scene:
    return Sampler(np.random.default_rng([0, index]), 128).scene()


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample(index) for index in range(COUNT)]


def test_a_seed_gives_its_scene() -> None:
    assert sample(3) == sample(3)
    assert sample(3) != sample(4)


def test_conditions_come_by_their_shares(scenes: list[Scene]) -> None:
    assert sum(weather.share for weather in CONDITIONS) == pytest.approx(1)
    found = Counter(scene.weather.name for scene in scenes)
    for weather in CONDITIONS:
        deviation = (COUNT * weather.share * (1 - weather.share)) ** 0.5
        assert found[weather.name] == pytest.approx(COUNT * weather.share, abs=4 * deviation)


def test_sky_comes_first_then_what_is_far(scenes: list[Scene]) -> None:
    for scene in scenes:
        sky, far, near, ground, *things = scene.layers
        assert isinstance(sky, Sky)
        assert isinstance(far, Ridge)
        assert isinstance(near, Ridge)
        assert isinstance(ground, Ground)
        assert far.distance > near.distance
        behind = [thing.z + getattr(thing, "length", 0) for thing in things]
        assert behind == sorted(behind, reverse=True)


def test_most_scenes_have_a_person_or_a_car_that_runs(scenes: list[Scene]) -> None:
    def warm(scene: Scene) -> bool:
        return any(isinstance(t, Person) or (isinstance(t, Car) and t.running) for t in scene.layers)

    assert np.mean([warm(scene) for scene in scenes]) > 0.93


def test_no_person_stands_in_a_car(scenes: list[Scene]) -> None:
    for scene in scenes:
        people = [thing for thing in scene.layers if isinstance(thing, Person)]
        for car in (thing for thing in scene.layers if isinstance(thing, Car)):
            _, width, _ = SIZES[car.kind]
            for person in people:
                apart = (person.x - car.x, person.z - car.z)
                assert abs(apart[0]) > width / 2 - 0.3 or abs(apart[1]) > width / 2 - 0.3


def test_lamps_and_lights_belong_to_the_dark(scenes: list[Scene]) -> None:
    for scene in scenes:
        name = scene.weather.name
        assert scene.headlights == 0 or name == "night"
        assert (max(scene.glow) > 0) == (name in ("dusk", "night"))
        assert scene.layers[0].sun is None or name == "day"
        assert abs(scene.air - scene.weather.air) <= 4
    nights = [scene for scene in scenes if scene.weather.name == "night"]
    assert any(scene.headlights for scene in nights)
    assert any(not scene.headlights for scene in nights)
