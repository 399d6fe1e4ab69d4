"""VIF and VIFF against plain NumPy and SciPy, and what they do and do not notice."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.signal import correlate2d
from torch import Tensor

from clipfuse import metrics
from clipfuse.metrics.definition import DEFINITIONS
from clipfuse.metrics.sharing import sharing

# What is tested here is the definition, on planes in 0..255; checks and rounding: test_definition.
vif, viff = (DEFINITIONS["VIF"].kernel, DEFINITIONS["VIFF"].kernel)

# Variances are differences of squares up to 65025 and round at 1e-11; one below 1e-10 counts as 0.
TOLERANCE = 1e-9
BOTH = (vif, viff)


def scene(height: int = 60, width: int = 73, count: int = 1, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = np.random.default_rng(seed)
    infrared, visible = (
        gaussian_filter(generator.normal(120, spread, (count, 1, height, width)), (0, 0, sigma, sigma))
        for spread, sigma in ((300, 2), (60, 0.6))
    )
    fused = 0.6 * infrared + 0.4 * visible
    return tuple(torch.from_numpy(plane.clip(0, 255).round()) for plane in (fused, infrared, visible))


def kernel(size: int, centred: bool) -> np.ndarray:
    first, last = (-(size // 2), size // 2) if centred else (-size // 2, size // 2)
    x = np.linspace(first, last, size)
    window = np.exp(-(x[:, None] ** 2 + x**2) / (2 * (size / 5) ** 2))
    return window / window.sum()


def channels(
    source: np.ndarray, fused: np.ndarray, border: str = "valid", centred: bool = True, most: float = np.inf
):
    """Yield gain, residual variance and source variance at each scale, with 2-D windows."""
    for scale in range(4):
        size = (17, 9, 5, 3)[scale]
        window = kernel(size, centred)

        def local(plane: np.ndarray, window: np.ndarray = window, size: int = size) -> np.ndarray:
            plane = np.pad(plane, size // 2) if border == "zero" else plane
            return correlate2d(plane, window, mode="valid")

        def product(x: np.ndarray, y: np.ndarray, most: float = np.inf if scale else most) -> np.ndarray:
            return np.minimum(x * y, most)

        if scale:
            source, fused = local(source)[::2, ::2], local(fused)[::2, ::2]
        of_source = np.maximum(local(product(source, source)) - local(source) ** 2, 0)
        of_fused = np.maximum(local(product(fused, fused)) - local(fused) ** 2, 0)
        both = local(product(source, fused)) - local(source) * local(fused)
        gain, residual = np.zeros_like(both), of_fused.copy()
        for at in np.ndindex(both.shape):
            if of_source[at] < 1e-10:
                of_source[at] = 0
            elif of_fused[at] < 1e-10:
                residual[at] = 0
            elif both[at] > 0:
                gain[at] = both[at] / (of_source[at] + 1e-10)
                residual[at] = of_fused[at] - gain[at] * both[at]
        yield gain, np.maximum(residual, 1e-10), of_source


def plain_vif(source: np.ndarray, fused: np.ndarray, *options, **named) -> float:
    kept = whole = 0.0
    for gain, residual, variance in channels(source, fused, *options, **named):
        kept += np.log10(1 + gain**2 * variance / (residual + 2)).sum()
        whole += np.log10(1 + variance / 2).sum()
    return kept / whole if whole else 1.0


def plain_viff(fused: np.ndarray, infrared: np.ndarray, visible: np.ndarray) -> float:
    noise, score = 0.005 * 255**2, 0.0
    bands = zip((1, 0, 0.15, 1), channels(infrared, fused), channels(visible, fused), strict=True)
    for weight, of_infrared, of_visible in bands:
        kept = whole = 0.0
        for at in np.ndindex(of_infrared[0].shape):
            chosen = of_infrared if of_infrared[0][at] < of_visible[0][at] else of_visible
            gain, residual, variance = (part[at] for part in chosen)
            kept += np.log10(1 + gain**2 * variance / (residual + noise)) + 1e-7
            whole += np.log10(1 + variance / noise) + 1e-7
        score += weight / 2.15 * kept / whole
    return score


def black_and_bright(images: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Blank parts of the images: windows that are flat in one of them or in all."""
    images = tuple(plane.clone() for plane in images)
    images[1][:, :, :30, :40] = 255
    images[2][:, :, 10:, :35] = 0
    images[0][:, :, :25, 20:] = 17
    return images


@pytest.mark.parametrize(("height", "width"), [(60, 73), (41, 41), (101, 47)])
@pytest.mark.parametrize("blank", [False, True])
def test_they_equal_their_definitions(height: int, width: int, blank: bool) -> None:
    images = scene(height, width)
    if blank:
        images = black_and_bright(images)
    fused, infrared, visible = (plane[0, 0].numpy() for plane in images)
    expected = plain_vif(infrared, fused) + plain_vif(visible, fused)
    assert vif(*images).item() == pytest.approx(expected, rel=TOLERANCE)
    expected = plain_viff(fused, infrared, visible)
    assert viff(*images).item() == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("border", ["valid", "zero"])
@pytest.mark.parametrize("centred", [True, False])
def test_borders_and_windows_beside_the_centre(border: str, centred: bool) -> None:
    images = scene()
    fused, infrared, visible = (plane[0, 0].numpy() for plane in images)
    expected = sum(plain_vif(source, fused, border, centred) for source in (infrared, visible))
    score = vif(*images, border=border, centred=centred)
    assert score.item() == pytest.approx(expected, rel=TOLERANCE)


def test_ivif_zoo_takes_vif_off_centre_with_black_around(scored: Callable[..., float]) -> None:
    images = scene()
    fused, *sources = (plane[0, 0].numpy() for plane in images)
    expected = sum(plain_vif(source, fused, "zero", centred=False) for source in sources)
    assert scored("ivif_zoo", "VIF", *images) == pytest.approx(expected, rel=TOLERANCE)
    for border, centred in (("zero", True), ("valid", False), ("valid", True)):
        other = sum(plain_vif(source, fused, border, centred) for source in sources)
        assert abs(other - expected) > 1e-4
    assert scored("cddfuse", "VIF", *images) == pytest.approx(other, rel=TOLERANCE)


@pytest.mark.parametrize("dark", [0, 60, 110])
def test_the_older_sheet_of_tang_cuts_products_off_at_255(scored: Callable[..., float], dark: int) -> None:
    images = tuple((plane - dark).clamp_min(0) for plane in scene())
    fused, *sources = (plane[0, 0].numpy() for plane in images)
    expected = sum(plain_vif(source, fused, most=255) for source in sources)
    value = scored("tang_uint8", "VIF", *images)
    assert value == pytest.approx(expected, rel=TOLERANCE)
    assert value > 1.01 * scored("strict", "VIF", *images)


def test_vif_is_twice_that_of_torchmetrics_with_equal_sources() -> None:
    """Which takes many times as long in float64 and would compute the fused image's moments twice."""
    from torchmetrics.functional.image import visual_information_fidelity as plain

    fused, infrared, _ = scene(count=2)
    expected = 2 * plain(fused, infrared, reduction="none")
    score = vif(fused, infrared, infrared)
    torch.testing.assert_close(score, expected, rtol=TOLERANCE, atol=0)


def test_equal_images_keep_everything() -> None:
    plane = scene()[0]
    assert vif(plane, plane, plane).item() == pytest.approx(2, rel=TOLERANCE)
    assert viff(plane, plane, plane).item() == pytest.approx(1, rel=TOLERANCE)


@pytest.mark.parametrize("level", [0.0, 100.0, 255.0])
def test_constant_images(level: float) -> None:
    constant = torch.full((1, 1, 60, 73), level, dtype=torch.float64)
    fused, infrared, visible = scene()
    assert vif(constant, constant, constant) == 2
    assert viff(constant, constant, constant).item() == pytest.approx(1, rel=1e-12)
    assert vif(constant, infrared, visible) == 0
    assert viff(constant, infrared, visible) < 1e-5
    expected = 1 + plain_vif(infrared[0, 0].numpy(), fused[0, 0].numpy())
    score = vif(fused, infrared, constant)
    assert score.item() == pytest.approx(expected, rel=TOLERANCE)


def test_an_inverted_image_keeps_nothing() -> None:
    _, infrared, _ = scene()
    assert vif(255 - infrared, infrared, infrared) == 0
    assert viff(255 - infrared, infrared, infrared) < 1e-5


def test_viff_is_blind_where_one_source_is_flat() -> None:
    """The flat source has the smaller gain, so that the other is not asked for."""
    _, _, visible = scene()
    constant = torch.full_like(visible, 40)
    blurred = torch.from_numpy(gaussian_filter(visible.numpy(), (0, 0, 2, 2)))
    for image in (visible, blurred):
        assert viff(image, visible, constant).item() == pytest.approx(1, rel=1e-6)
        # With a covariance below 0 in some windows the gains are equal there.
        assert viff(image, constant, visible) > 0.8
    assert vif(blurred, constant, visible) < 1.5


@pytest.mark.parametrize("score", BOTH)
@pytest.mark.parametrize("worse", ["noise", "blur", "contrast"])
def test_they_fall_with_noise_blur_and_lost_contrast(score, worse: str) -> None:
    _, _, visible = scene()
    noise = torch.randn(visible.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def spoilt(strength: float) -> Tensor:
        if worse == "noise":
            return (visible + 10 * strength * noise).clamp(0, 255)
        if worse == "blur":
            return torch.from_numpy(gaussian_filter(visible.numpy(), (0, 0, strength, strength)))
        return 120 + (visible - 120) * (1 - 0.2 * strength)

    scores = [score(spoilt(strength), visible, visible).item() for strength in (0, 1, 2, 4)]
    assert scores == sorted(scores, reverse=True)


def test_losing_one_source_can_raise_vif() -> None:
    """Each term holds what comes from the other source for noise, so a blur that removes it helps."""
    fused, infrared, visible = scene()
    blurred = torch.from_numpy(gaussian_filter(fused.numpy(), (0, 0, 1, 1)))
    assert vif(blurred, infrared, visible) > vif(fused, infrared, visible)


def test_added_contrast_raises_vif_above_that_of_the_source_itself() -> None:
    _, infrared, _ = scene()
    infrared = (infrared / 2).floor()
    assert vif(infrared * 2, infrared, infrared) > 2
    assert viff(infrared * 2, infrared, infrared) > 1


def test_a_brighter_image_has_the_same_scores() -> None:
    fused, infrared, visible = (plane * 0.8 for plane in scene())
    for score in BOTH:
        expected = score(fused, infrared, visible).item()
        assert score(fused + 40, infrared, visible).item() == pytest.approx(expected, rel=TOLERANCE)


def test_a_batch_is_its_images_and_steps_are_shared() -> None:
    images = scene(count=3)
    for score in BOTH:
        alone = torch.cat([score(*(plane[[index]] for plane in images)) for index in range(3)])
        with sharing():
            together = score(*images)
            again = [vif(*images), viff(*images)]
        assert together.shape == (3,)
        torch.testing.assert_close(together, alone, rtol=TOLERANCE, atol=0)
        assert any(torch.allclose(together, other, rtol=TOLERANCE, atol=0) for other in again)


@pytest.mark.parametrize(("score", "name"), [(metrics.vif, "VIF"), (metrics.viff, "VIFF")])
def test_images_that_are_too_small(score, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: fused is 40x73 px; expected sides of at least 41 px"):
        score(*scene(40, 73), data_range=255)


@pytest.mark.parametrize("score", BOTH)
def test_gradients(score) -> None:
    images = [plane.clamp(1, 254).requires_grad_() for plane in scene(41, 42)]
    assert torch.autograd.gradcheck(score, images, fast_mode=True, rtol=1e-3)


def test_gradients_where_images_are_flat_or_equal_are_finite() -> None:
    for images in (black_and_bright(scene()), [scene()[0]] * 3):
        fused = images[0].clone().requires_grad_()
        for score in BOTH:
            (slope,) = torch.autograd.grad(score(fused, *images[1:]).sum(), fused)
            assert slope.isfinite().all()
