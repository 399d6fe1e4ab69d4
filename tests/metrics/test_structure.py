"""SSIM against scikit-image, kornia and torchmetrics, MS-SSIM against torchmetrics and plain SciPy."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.signal import correlate2d
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from clipfuse import metrics
from clipfuse.metrics.definition import DEFINITIONS
from clipfuse.metrics.sharing import sharing

# What is tested here is the definition, on planes in 0..255; checks and rounding: test_definition.
ms_ssim, ssim = (DEFINITIONS["MS-SSIM"].kernel, DEFINITIONS["SSIM"].kernel)

# Variances are differences of squares up to 65025: they round at 1e-11, over constants of at least
# 58 (range 255), 4e-3 (range 2) or 9e-4 (range 1) in the flattest windows.
TOLERANCE = {255.0: 1e-12, 2.0: 1e-9, 1.0: 1e-8}


def scene(height: int = 40, width: int = 53, count: int = 1, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = np.random.default_rng(seed)
    infrared, visible = (
        gaussian_filter(generator.normal(120, spread, (count, 1, height, width)), (0, 0, sigma, sigma))
        for spread, sigma in ((300, 2), (60, 0.6))
    )
    fused = 0.6 * infrared + 0.4 * visible
    return tuple(torch.from_numpy(plane.clip(0, 255).round()) for plane in (fused, infrared, visible))


@pytest.mark.parametrize("data_range", [255.0, 2.0, 1.0])
@pytest.mark.parametrize("window", ["uniform", "gaussian"])
@pytest.mark.parametrize(("height", "width"), [(40, 53), (11, 12)])
def test_ssim_equals_scikit_image(height: int, width: int, window: str, data_range: float) -> None:
    from skimage.metrics import structural_similarity as plain

    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    options: dict[str, Any] = gaussian if window == "gaussian" else {}
    fused, *sources = images = scene(height, width)
    expected = sum(
        plain(fused[0, 0].numpy(), source[0, 0].numpy(), data_range=data_range, **options)
        for source in sources
    )
    score = ssim(*images, window=window, dynamic_range=data_range)
    assert score.item() == pytest.approx(expected, rel=TOLERANCE[data_range])


def test_gaussian_ssim_equals_kornia() -> None:
    """Which filters the fused image once per source, with a slow float64 convolution: we do not call it."""
    from kornia.metrics import ssim as plain

    fused, *sources = images = scene(count=2)
    expected = sum(
        plain(fused, source, 11, max_val=255.0, padding="valid").mean((1, 2, 3)) for source in sources
    )
    torch.testing.assert_close(ssim(*images, window="gaussian"), expected, rtol=1e-12, atol=0)


def test_torchmetrics_adds_windows_over_a_reflected_border() -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    fused, *sources = images = scene(count=2)
    theirs = sum(
        structural_similarity_index_measure(fused, source, data_range=255.0, reduction="none")
        for source in sources
    )
    torch.testing.assert_close(ssim(*reflected(images), window="gaussian"), theirs, rtol=1e-12, atol=0)
    assert ((ssim(*images, window="gaussian") - theirs).abs() > 1e-3).all()


def reflected(images: Sequence[Tensor]) -> list[Tensor]:
    return [pad(plane, (5, 5, 5, 5), mode="reflect") for plane in images]


def test_a_range_of_1_is_one_of_255_on_images_times_255() -> None:
    """IVIF_ZOO multiplies planes in 0..255 by 255 again; ours would refuse those."""
    from skimage.metrics import structural_similarity as plain

    fused, *sources = images = scene()
    expected = sum(
        plain(255 * fused[0, 0].numpy(), 255 * source[0, 0].numpy(), data_range=255) for source in sources
    )
    score = ssim(*images, dynamic_range=1.0)
    assert score.item() == pytest.approx(expected, rel=TOLERANCE[1.0])


def multi_scale(fused: np.ndarray, source: np.ndarray, odd: str, data_range: float = 255.0) -> float:
    """Write the definition down: 2-D windows by SciPy, one scale after the other."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    score = 1.0
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    for scale, weight in enumerate(weights):
        if scale:
            fused, source = (halved(plane, odd) for plane in (fused, source))
        x, y, xx, yy, xy = (
            correlate2d(plane, window, mode="valid")
            for plane in (fused, source, fused**2, source**2, fused * source)
        )
        contrast = (2 * (xy - x * y) + c2) / (xx - x * x + yy - y * y + c2)
        similarity = contrast * (2 * x * y + c1) / (x * x + y * y + c1)
        score *= max((similarity if scale == 4 else contrast).mean(), 0) ** weight
    return score


def halved(plane: np.ndarray, odd: str) -> np.ndarray:
    extra = [(side % 2, 0) if odd == "zero" else (0, side % 2) for side in plane.shape]
    plane = np.pad(plane, extra, mode="constant" if odd == "zero" else "edge")
    return (plane[::2, ::2] + plane[1::2, ::2] + plane[::2, 1::2] + plane[1::2, 1::2]) / 4


@pytest.mark.parametrize("odd", ["repeat", "zero"])
@pytest.mark.parametrize(("height", "width"), [(161, 166), (176, 192)])
def test_ms_ssim_equals_its_definition(height: int, width: int, odd: str) -> None:
    fused, *sources = images = scene(height, width)
    for data_range in (255.0, 1.0):
        expected = sum(
            multi_scale(fused[0, 0].numpy(), source[0, 0].numpy(), odd, data_range) for source in sources
        )
        score = ms_ssim(*images, odd_sides=odd, dynamic_range=data_range)
        assert score.item() == pytest.approx(expected, rel=TOLERANCE[data_range])


def test_what_the_kits_call_ssim(scored: Callable[..., float]) -> None:
    from skimage.metrics import structural_similarity as plain

    images = scene()
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}

    fused, *sources = (plane[0, 0].numpy() for plane in images)
    for protocol, data_range in (("ivif_zoo", 1.0), ("vifb", 255.0)):
        expected = sum(plain(fused, source, data_range=data_range, **gaussian) for source in sources)
        assert scored(protocol, "SSIM", *images) == pytest.approx(expected, rel=TOLERANCE[data_range])


def test_ivif_zoo_halves_odd_sides_with_a_black_line_and_has_range_1(scored: Callable[..., float]) -> None:
    fused, *sources = images = scene(161, 167)
    expected = sum(multi_scale(fused[0, 0].numpy(), each[0, 0].numpy(), "zero", 1.0) for each in sources)
    assert scored("ivif_zoo", "MS-SSIM", *images) == pytest.approx(expected, rel=TOLERANCE[1.0])
    for odd, data_range in (("repeat", 1.0), ("zero", 255.0)):
        other = sum(multi_scale(fused[0, 0].numpy(), s[0, 0].numpy(), odd, data_range) for s in sources)
        assert abs(other - expected) > 1e-4


def test_ms_ssim_differs_from_torchmetrics_in_the_border_of_the_last_scale() -> None:
    """Sides are multiples of 16 here: of odd ones torchmetrics drops a row or column."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as plain

    fused, source, _ = scene(176, 192, count=2)
    theirs = plain(fused, source, data_range=255.0, reduction="none", normalize="relu")
    ours = ms_ssim(fused, source, source) / 2
    last = [avg_pool2d(plane, 16) for plane in (fused, source, source)]
    inside, with_border = (ssim(*planes, window="gaussian") / 2 for planes in (last, reflected(last)))
    # Their weights are float32.
    torch.testing.assert_close(ours * (with_border / inside) ** 0.1333, theirs, rtol=1e-8, atol=0)
    assert ((ours - theirs).abs() < 0.02).all()


def test_an_inverted_image_has_no_ms_ssim_and_a_negative_ssim() -> None:
    _, infrared, _ = scene(161, 161)
    inverted = (255 - infrared).requires_grad_()
    assert ssim(inverted, infrared, infrared) < 0
    score = ms_ssim(inverted, infrared, infrared)
    assert score == 0
    (slope,) = torch.autograd.grad(score.sum(), inverted)
    assert slope.isfinite().all()


@pytest.mark.parametrize("level", [0.0, 128.0, 255.0])
def test_equal_and_constant_images(level: float) -> None:
    constant = torch.full((1, 1, 161, 170), level, dtype=torch.float64)
    plane = scene(161, 170)[0]
    for same in (constant, plane):
        assert ssim(same, same, same).item() == pytest.approx(2, rel=1e-12)
        assert ms_ssim(same, same, same).item() == pytest.approx(2, rel=1e-12)
    for score in (ssim, ms_ssim):
        for images in ((constant, plane, plane), (plane, constant, constant)):
            assert score(*images).isfinite().all()


@pytest.mark.parametrize("worse", ["noise", "blur", "offset"])
def test_they_fall_with_noise_blur_and_offset(worse: str) -> None:
    fused, infrared, visible = scene(176, 176)
    noise = torch.randn(fused.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def spoilt(strength: float) -> Tensor:
        if worse == "noise":
            return (fused + 10 * strength * noise).clamp(0, 255)
        if worse == "blur":
            return torch.from_numpy(gaussian_filter(fused.numpy(), (0, 0, strength, strength)))
        return (fused + 20 * strength).clamp(0, 255)

    for score in (ssim, ms_ssim):
        scores = [score(spoilt(strength), infrared, visible).item() for strength in (0, 1, 2, 4)]
        assert scores == sorted(scores, reverse=True)


def test_copying_one_source_can_beat_keeping_both() -> None:
    """Where the sources contradict each other a copy of one scores more than their average."""
    _, infrared, _ = scene()
    visible = 255 - infrared
    copied = ssim(visible, infrared, visible)
    assert copied > ssim((infrared + visible) / 2, infrared, visible)


def test_a_batch_is_its_images_and_steps_are_shared() -> None:
    images = scene(161, 163, count=3)
    for score in (ssim, ms_ssim):
        alone = torch.cat([score(*(plane[[index]] for plane in images)) for index in range(3)])
        with sharing():
            together = score(*images)
        assert together.shape == (3,)
        torch.testing.assert_close(together, alone, rtol=TOLERANCE[255.0], atol=0)


def test_images_that_are_too_small() -> None:
    small = [plane[:, :, :10, :] for plane in scene()]
    metrics.ssim(*small, data_range=255)
    with pytest.raises(ValueError, match=r"SSIM: fused is 10x53 px; expected sides of at least 11 px"):
        metrics.ssim(*small, window="gaussian", data_range=255)
    with pytest.raises(ValueError, match=r"SSIM: fused is 6x53 px; expected sides of at least 7 px"):
        metrics.ssim(*(plane[:, :, :6] for plane in small), data_range=255)
    with pytest.raises(ValueError, match=r"MS-SSIM: fused is 160x200 px; expected sides of at least 161 px"):
        metrics.ms_ssim(*scene(160, 200), data_range=255)


@pytest.mark.parametrize(
    "options", [{}, {"window": "gaussian"}, {"window": "gaussian", "dynamic_range": 2.0}]
)
def test_gradients(options: dict[str, Any]) -> None:
    images = [plane.clamp(1, 254).requires_grad_() for plane in scene(12, 11)]
    assert torch.autograd.gradcheck(lambda *planes: ssim(*planes, **options), images, fast_mode=True)


def test_gradients_of_ms_ssim() -> None:
    images = [plane.clamp(1, 254).requires_grad_() for plane in scene(161, 162)]
    assert torch.autograd.gradcheck(ms_ssim, images, fast_mode=True)
