from collections.abc import Callable

import numpy as np
import pytest
import torch

from clipfuse.metrics.definition import DEFINITIONS

GENERATOR = np.random.default_rng(0)
IMAGES = {
    "noise": GENERATOR.integers(0, 256, (9, 14)),
    "ramp": np.arange(35).reshape(5, 7) * 7,
    "flat": np.full((4, 4), 200),
    "two pixels": np.array([[0, 255], [0, 255]]),
}


def standard_deviation(image: np.ndarray) -> float:
    mean = image.sum() / image.size
    return (sum((value - mean) ** 2 for value in image.flat) / image.size) ** 0.5


def uint8_deviation(image: np.ndarray) -> float:
    """Saturate by hand, pixel by pixel, each result that MATLAB would keep in 8 bits."""
    mean = image.sum() / image.size
    squares = []
    for value in image.flat:
        difference = max(0, min(255, int(value - mean + 0.5)))  # truncation: below -0.5 it is 0 all the same
        squares.append(min(255, difference**2))
    return (sum(squares) / image.size) ** 0.5


def spatial_frequency(image: np.ndarray) -> float:
    height, width = image.shape
    rows = [(image[y, x + 1] - image[y, x]) ** 2 for y in range(height) for x in range(width - 1)]
    columns = [(image[y + 1, x] - image[y, x]) ** 2 for y in range(height - 1) for x in range(width)]
    return (sum(rows) / len(rows) + sum(columns) / len(columns)) ** 0.5


def average_gradient(image: np.ndarray) -> float:
    along_y, along_x = np.gradient(image)
    return np.sqrt((along_x**2 + along_y**2) / 2).mean()


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize(
    ("name", "twin"), [("SD", standard_deviation), ("SF", spatial_frequency), ("AG", average_gradient)]
)
def test_equals_the_definition(name, twin, image) -> None:
    plane = torch.from_numpy(image).double()[None, None]
    # Both are exact but for the order of their sums.
    assert DEFINITIONS[name].kernel(plane).item() == pytest.approx(twin(image.astype(float)), rel=1e-12)


def test_average_gradient_over_cells() -> None:
    plane = torch.from_numpy(IMAGES["ramp"]).double()[None, None]
    score = DEFINITIONS["AG"].kernel
    assert score(plane, divisor="cells").item() == pytest.approx(score(plane).item() * 35 / 24)


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_the_older_sheet_of_tang_is_arithmetic_of_8_bits(scored: Callable[..., float], image) -> None:
    plane = torch.from_numpy(image).double()[None, None]
    assert scored("tang_uint8", "SD", plane) == pytest.approx(uint8_deviation(image), rel=1e-12, abs=1e-12)
    twin = spatial_frequency(image.astype(float)) / 255
    assert scored("tang_uint8", "SF", plane) == pytest.approx(twin, rel=1e-12)


def test_the_older_sheet_has_a_deviation_of_8_to_10_where_the_true_one_is_30_to_50(
    scored: Callable[..., float],
) -> None:
    generator = np.random.default_rng(1)
    for spread in (30, 50):
        image = generator.gamma(2, spread / 2**0.5, (60, 80)).clip(0, 255).round()  # a dark scene, lit parts
        plane = torch.from_numpy(image)[None, None]
        assert 25 < scored("strict", "SD", plane) < 55
        assert 8 < scored("tang_uint8", "SD", plane) < 10


def test_two_kits_divide_by_the_cells_between_pixels(scored: Callable[..., float]) -> None:
    image = IMAGES["noise"].astype(float)
    plane = torch.from_numpy(image)[None, None]
    whole = image.size * average_gradient(image)
    for protocol in ("tang", "vifb"):
        assert scored(protocol, "AG", plane) == pytest.approx(whole / (8 * 13), rel=1e-12)
    for protocol in ("strict", "cddfuse", "ivif_zoo"):
        assert scored(protocol, "AG", plane) == pytest.approx(whole / (9 * 14), rel=1e-12)


@pytest.mark.parametrize("name", ["SD", "SF", "AG"])
def test_blur_lowers_and_noise_raises_it(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.nn.functional.interpolate(255 * torch.rand(1, 1, 16, 16, generator=generator), (64, 64))
    image = image.double()
    blurred = torch.nn.functional.avg_pool2d(image, 9, stride=1)
    noisy = (image + 40 * torch.randn(image.shape, generator=generator)).clamp(0, 255)
    score = DEFINITIONS[name].kernel
    assert score(blurred) < score(image) < score(noisy)


@pytest.mark.parametrize("name", ["SD", "SF", "AG"])
def test_gradient(name: str) -> None:
    plane = 255 * torch.rand(1, 1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(DEFINITIONS[name].kernel, plane.requires_grad_())
