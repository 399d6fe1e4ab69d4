"""MSE and PSNR by their formulas, and what they do and do not notice."""

from collections.abc import Callable
from math import inf, log10

import numpy as np
import pytest
import torch
from torch import Tensor

from clipfuse.metrics.definition import DEFINITIONS

# What is tested here is the definition, on planes in 0..255; checks and rounding: test_definition.
mse, psnr = (DEFINITIONS["MSE"].kernel, DEFINITIONS["PSNR"].kernel)


def planes(count: int = 1, height: int = 20, width: int = 23) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (count, 1, height, width)
    infrared, visible = (
        torch.rand(shape, dtype=torch.float64, generator=generator).mul(255).round() for _ in range(2)
    )
    return ((infrared + 2 * visible) / 3).round(), infrared, visible


@pytest.mark.parametrize(("height", "width"), [(20, 24), (5, 7), (1, 1)])
def test_they_equal_their_formulas(height: int, width: int) -> None:
    images = planes(3, height, width)
    for index in range(3):
        fused, infrared, visible = (plane[index, 0].numpy() for plane in images)
        error = (np.mean((fused - infrared) ** 2) + np.mean((fused - visible) ** 2)) / 2
        assert mse(*images)[index] == pytest.approx(error, rel=1e-14)
        expected = 10 * np.log10(255**2 / error)
        assert psnr(*images)[index] == pytest.approx(expected, rel=1e-14)
        expected = 10 * np.log10(fused.max() ** 2 / error)
        assert psnr(*images, peak="fused")[index] == pytest.approx(expected, rel=1e-13)


def test_one_source_gives_the_value_of_scikit_image() -> None:
    from skimage.metrics import mean_squared_error as plain_error
    from skimage.metrics import peak_signal_noise_ratio

    fused, infrared, _ = planes()
    pair = infrared[0, 0].numpy(), fused[0, 0].numpy()
    assert mse(fused, infrared, infrared).item() == pytest.approx(plain_error(*pair), rel=1e-14)
    expected = peak_signal_noise_ratio(*pair, data_range=255)
    assert psnr(fused, infrared, infrared).item() == pytest.approx(expected, rel=1e-14)


def test_an_error_in_0_to_1_with_a_peak_of_255_adds_48_dB() -> None:
    images = planes()
    error = mse(*images, scale=1 / 255) * 255**2
    assert error.item() == pytest.approx(mse(*images).item(), rel=1e-14)
    gain = psnr(*images, scale=1 / 255) - psnr(*images)
    assert gain.item() == pytest.approx(20 * log10(255), rel=1e-13)


@pytest.mark.parametrize("protocol", ["tang", "ivif_zoo"])
def test_two_kits_take_the_error_on_0_to_1_and_the_peak_at_255(
    scored: Callable[..., float], protocol: str
) -> None:
    images = planes()
    fused, *sources = (plane.numpy() / 255 for plane in images)
    error = sum(((fused - source) ** 2).mean() for source in sources) / 2
    assert scored(protocol, "MSE", *images) == pytest.approx(error, rel=1e-13)
    assert scored(protocol, "PSNR", *images) == pytest.approx(10 * log10(255**2 / error), rel=1e-13)
    assert scored(protocol, "PSNR", *images) - scored("strict", "PSNR", *images) == pytest.approx(
        48.13, abs=0.005
    )


def test_vifb_takes_the_root_of_the_sum_over_the_number_of_pixels(scored: Callable[..., float]) -> None:
    images = planes()
    fused, *sources = (plane[0, 0].tolist() for plane in images)
    errors = []
    for source in sources:
        squares = [
            (f - s) ** 2 for rows in zip(fused, source, strict=True) for f, s in zip(*rows, strict=True)
        ]
        errors.append(sum(squares) ** 0.5 / len(squares))
    expected = 20 * log10(255 / (sum(errors) / 2) ** 0.5)
    assert scored("vifb", "PSNR", *images) == pytest.approx(expected, rel=1e-13)
    assert expected > scored("strict", "PSNR", *images) + 30


def test_where_they_are_not_finite() -> None:
    plane, black = planes()[0], torch.zeros(1, 1, 20, 23, dtype=torch.float64)
    assert mse(plane, plane, plane) == 0
    assert psnr(plane, plane, plane) == inf
    assert psnr(black, plane, plane).isfinite()
    assert psnr(black, plane, plane, peak="fused") == -inf
    assert psnr(black, black, black, peak="fused").isnan()


def test_noise_makes_them_worse() -> None:
    fused, infrared, visible = planes()
    noise = torch.randn(fused.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    noisy = [(fused + strength * noise).clamp(0, 255) for strength in (0, 10, 40)]
    errors = [mse(image, infrared, visible).item() for image in noisy]
    assert errors == sorted(errors)
    ratios = [psnr(image, infrared, visible).item() for image in noisy]
    assert ratios == sorted(ratios, reverse=True)


def test_nothing_beats_the_plain_average() -> None:
    _, infrared, visible = planes()
    least = mse((infrared + visible) / 2, infrared, visible)
    for share in (0.0, 0.4, 0.6, 1.0):
        assert mse(share * infrared + (1 - share) * visible, infrared, visible) > least


def test_gradients() -> None:
    images = [plane.clamp(1, 254).requires_grad_() for plane in planes(2, 3, 4)]
    assert torch.autograd.gradcheck(mse, images)
    assert torch.autograd.gradcheck(psnr, images)
    assert torch.autograd.gradcheck(lambda *planes: psnr(*planes, peak="fused", scale=0.1), images)
