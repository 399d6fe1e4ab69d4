"""The two cameras and the ideal fusion, on a buffer that is known at each pixel."""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from clipfuse.data.synthetic import sensor
from clipfuse.data.synthetic.canvas import ALBEDO, DEPTH, FAR, HEAT, LIGHT, TARGET, Canvas
from clipfuse.data.synthetic.scene import CONDITIONS, Scene
from clipfuse.data.synthetic.targets import Car

Make = Callable[..., Canvas]
WEATHER = {weather.name: weather for weather in CONDITIONS}
SIZE = 128


def street(canvas: Canvas, name: str = "day", extinction: float = 0.0, **fields: object) -> Scene:
    plain = Scene(WEATHER[name], canvas.camera, (), 10.0, extinction, (0.0, 0.0, 0.0), 0.0)
    return replace(plain, **fields)


def test_a_wide_blur_is_that_of_opencv_on_a_reduced_copy() -> None:
    noise = np.random.default_rng(0).normal(0.5, 0.1, (96, 96)).astype(np.float32)
    for sigma in (1.0, 9.0):
        exact = cv2.GaussianBlur(noise, (0, 0), sigma)
        assert np.abs(sensor.blur(noise, sigma) - exact)[8:-8, 8:-8].max() < 0.01
    assert (sensor.blur(noise, 1.0) == cv2.GaussianBlur(noise, (0, 0), 1.0)).all()


def test_brighter_surfaces_are_brighter_and_fog_hides_what_is_far(canvas: Make) -> None:
    made = canvas()
    made.buffer[:, :64, ALBEDO], made.buffer[:, 64:, ALBEDO] = 0.1, 0.6
    made.buffer[..., DEPTH] = 30
    clear, gain = sensor.expose(street(made), made.buffer)
    assert gain > 0
    contrasts = []
    for extinction in (0.0, 0.03, 0.2):
        picture, _ = sensor.expose(street(made, "fog", extinction), made.buffer)
        contrasts.append(float(picture[:, 96:].mean() - picture[:, :32].mean()))
    assert clear[:, 96:].min() > clear[:, :32].max()
    assert contrasts[0] > 2 * contrasts[1] > 20 * contrasts[2] > -0.02


def test_headlights_and_lights_of_cars_light_the_road_at_night_alone(canvas: Make) -> None:
    made = canvas()
    z = np.linspace(40, 4, SIZE, dtype=np.float32)
    made.buffer[..., DEPTH] = z[:, None]
    car = Car(0, 25, np.pi, "sedan", (0.3, 0.3, 0.3), 10, True, True)
    dark = sensor.illuminate(street(made, "night"), made.buffer)
    driver = sensor.illuminate(street(made, "night", headlights=1.0), made.buffer)
    other = sensor.illuminate(street(made, "night", layers=(car,)), made.buffer)
    assert np.ptp(dark) < 0.02
    assert driver.max() > 5 * dark.max()
    assert other.max() > 5 * dark.max()
    # The car comes towards the camera: it lights the road on this side of it.
    lit = z[np.unravel_index(other.sum(axis=2).argmax(), other.shape[:2])[0]]
    assert lit < 25 - 2
    day = sensor.illuminate(street(made, headlights=1.0, layers=(car,)), made.buffer)
    assert np.ptp(day, axis=(0, 1)) == pytest.approx(0)


def test_warmer_is_brighter_in_infrared_and_hardly_dimmed_by_fog(canvas: Make) -> None:
    made = canvas()
    made.buffer[..., HEAT] = np.repeat(np.array([0, 10, 20, 32], np.float32), 32)
    made.buffer[..., DEPTH] = 40
    clear = sensor.thermal(street(made), made.buffer)
    foggy = sensor.thermal(street(made, "fog", extinction=0.07), made.buffer)
    middles = [clear[:, column].mean() for column in (16, 48, 80, 112)]
    assert sorted(middles) == middles
    assert 0 <= clear.min() <= clear.max() <= 1
    assert np.ptp(foggy) > 0.7 * np.ptp(clear)


def test_noise_has_mean_0_and_grows_with_the_gain() -> None:
    clean = np.full((SIZE, SIZE, 3), 0.5, np.float32)

    def spread(gain: float) -> float:
        shot = sensor.develop(clean, gain, np.random.default_rng(0)) / 255
        assert shot[48:80, 48:80].mean() == pytest.approx(0.5, abs=0.01)
        return float(shot[32:96, 32:96].std())

    assert spread(0.5) < spread(4.0) < 0.05
    first, second = (sensor.read_out(clean[..., 0], np.random.default_rng(1)) for _ in range(2))
    assert (first == second).all()
    assert first.dtype == np.uint8
    assert (first[48:80, 48:80] / 255).mean() == pytest.approx(0.5, abs=0.01)
    assert 0.005 < (first[48:80, 48:80] / 255).std() < 0.03


@pytest.mark.parametrize(("target", "hidden"), [(0.0, False), (0.0, True), (1.0, False)])
def test_the_ideal_fusion_is_the_formula_of_its_docstring(canvas: Make, target: float, hidden: bool) -> None:
    """On planes of one value the texture is 0 and every blur does nothing."""
    made = canvas()
    made.buffer[..., TARGET], made.buffer[..., DEPTH] = target, 100
    scene = street(made, extinction=1.0 if hidden else 0.0)
    seen, warm = 0.5, 0.9
    fused = sensor.ideal(
        scene,
        made.buffer,
        np.full((SIZE, SIZE, 3), seen, np.float32),
        np.full((SIZE, SIZE), warm, np.float32),
    )
    expected = 0.2 * seen + 0.8 * warm if hidden else seen
    if target:
        expected = max(expected, 0.3 * seen + 0.7 * max(warm, 0.75))
    assert np.abs(fused.astype(int) - 255 * expected).max() <= 1


def test_the_sky_is_the_visible_one_however_dark_it_is(canvas: Make) -> None:
    made = canvas()
    made.buffer[..., DEPTH], made.buffer[..., LIGHT] = FAR, 0
    dark = np.full((SIZE, SIZE, 3), 0.02, np.float32)
    fused = sensor.ideal(street(made), made.buffer, dark, np.full((SIZE, SIZE), 0.9, np.float32))
    assert (fused == round(255 * 0.02)).all()
