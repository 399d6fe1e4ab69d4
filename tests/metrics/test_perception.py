"""Qcv and Qcb against plain NumPy and SciPy, and what they do and do not notice."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d, correlate2d
from torch import Tensor

from clipfuse import metrics
from clipfuse.metrics.definition import DEFINITIONS
from clipfuse.metrics.sharing import sharing

# What is tested here is the definition, on planes in 0..255; checks and rounding: test_definition.
qcb, qcv = (DEFINITIONS["Qcb"].kernel, DEFINITIONS["Qcv"].kernel)

# Fourier transforms of a few thousand float64 values round at 1e-15 of their largest; the masked
# contrast multiplies by at most 1e5.
TOLERANCE = 1e-9
SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
TOOLKIT_QCV = {"stretch": "rounded", "border": "zero", "blocks": "padded", "csf_slope": 0.144}
TOOLKIT_QCB = {"stretch": "rounded", "normalise": False}
PORT_QCB = {"stretch": "exact", "normalise": False, "frequency": "fftfreq"}
SIZES = [(32, 48), (37, 50), (16, 19)]
METRICS = [(qcv, options) for options in ({}, TOOLKIT_QCV)]
METRICS += [(qcb, options) for options in ({}, TOOLKIT_QCB, PORT_QCB)]
OTHER_QCV = [{"stretch": "exact"}]


def scene(seed: int, height: int = 37, width: int = 50, count: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = np.random.default_rng(seed)
    infrared, visible = (
        gaussian_filter(generator.normal(120, spread, (count, 1, height, width)), (0, 0, sigma, sigma))
        for spread, sigma in ((300, 2), (60, 0.6))
    )
    fused = 0.6 * infrared + 0.4 * visible
    return tuple(torch.from_numpy(plane.clip(0, 255).round()) for plane in (fused, infrared, visible))


def stretched(plane: np.ndarray, how: str) -> np.ndarray:
    if how == "none":
        return plane
    plane = (plane - plane.min()) / (plane.max() - plane.min()) * 255
    return np.floor(plane + 0.5) if how == "rounded" else plane


def freqspace(length: int) -> np.ndarray:
    """The frequencies of a centred spectrum in half cycles per pixel, as MATLAB's function of this name."""
    return np.arange(-(length // 2), (length + 1) // 2) * 2 / length


def filtered(plane: np.ndarray, response: np.ndarray) -> np.ndarray:
    spectrum = np.fft.fftshift(np.fft.fft2(plane)) * response
    back = np.fft.ifft2(np.fft.ifftshift(spectrum))
    assert abs(back.imag).max() < 1e-10
    return back.real


def radius(shape: tuple[int, int], scale: float) -> np.ndarray:
    height, width = shape
    down, along = freqspace(height) * height / scale, freqspace(width) * width / scale
    return np.sqrt(down[:, None] ** 2 + along**2)


def slow_qcv(*planes, stretch="none", border="mirror", blocks="partial", csf_slope=0.114):
    fused, *sources = (stretched(plane, stretch) for plane in planes)
    height, width = fused.shape
    r = csf_slope * radius(fused.shape, 8)
    csf = 2.6 * (0.0192 + r) * np.exp(-(r**1.1))
    over = total = 0.0
    for source in sources:
        framed = np.pad(source, 1, mode={"zero": "constant", "mirror": "reflect"}[border])
        x, y = (convolve2d(framed, kernel, "valid") for kernel in (SOBEL, SOBEL.T))
        gradient, error = np.hypot(x, y), filtered(source - fused, csf) ** 2
        for top in range(0, height, 16):
            for left in range(0, width, 16):
                block = slice(top, top + 16), slice(left, left + 16)
                weight = (gradient[block] ** 5).sum()
                over += weight * error[block].sum() / (256 if blocks == "padded" else error[block].size)
                total += weight
    return over / total


def slow_qcb(*planes, stretch="none", frequency="freqspace", normalise=True) -> float:
    offsets = np.arange(-15, 16)
    squares = offsets[:, None] ** 2 + offsets**2
    gaussians = [np.exp(-squares / (2 * s * s)) / (2 * np.pi * s * s) for s in (2, 4)]
    r = radius(planes[0].shape, 30 if frequency == "freqspace" else 60)
    csf = np.exp(-((r / 15.3870) ** 2)) - 0.7622 * np.exp(-((r / 1.3456) ** 2))
    masked = []
    for plane in planes:
        seen = filtered(stretched(plane, stretch), csf)
        fine, coarse = (correlate2d(seen, gaussian, "same") for gaussian in gaussians)
        if normalise:
            inside = [correlate2d(np.ones_like(seen), gaussian, "same") for gaussian in gaussians]
            fine, coarse = fine / inside[0], coarse / inside[1]
        contrast = abs(fine / coarse - 1)
        masked.append(contrast**3 / (contrast**2 + 0.0001))
    f, i, v = masked
    quality = np.zeros_like(f)
    for source in (i, v):
        ratio = np.where(source < f, source / f, f / source)
        quality += source**2 / (i**2 + v**2) * ratio
    return quality.mean()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [{}, TOOLKIT_QCV, *OTHER_QCV])
def test_qcv_is_the_loop_over_blocks(size: tuple[int, int], options: dict) -> None:
    planes = scene(1, *size)
    expected = slow_qcv(*(plane[0, 0].numpy() for plane in planes), **options)
    assert qcv(*planes, **options).item() == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("size", [*SIZES, (2, 5)])
@pytest.mark.parametrize("options", [{}, TOOLKIT_QCB, PORT_QCB])
def test_qcb_is_the_plain_one(size: tuple[int, int], options: dict) -> None:
    planes = scene(2, *size)
    expected = slow_qcb(*(plane[0, 0].numpy() for plane in planes), **options)
    assert qcb(*planes, **options).item() == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("protocol", "name", "slow", "options"),
    [
        ("vifb", "Qcv", slow_qcv, TOOLKIT_QCV),
        ("vifb", "Qcb", slow_qcb, TOOLKIT_QCB),
        ("ivif_zoo", "Qcb", slow_qcb, PORT_QCB),
    ],
)
def test_kits_have_ways_of_their_own(
    scored: Callable[..., float], protocol: str, name: str, slow: Callable[..., float], options: dict
) -> None:
    planes = scene(1)
    plain = [plane[0, 0].numpy() for plane in planes]
    value = scored(protocol, name, *planes)
    assert value == pytest.approx(slow(*plain, **options), rel=TOLERANCE)
    for left_out in options:  # none of them goes without saying
        rest = {key: option for key, option in options.items() if key != left_out}
        assert slow(*plain, **rest) != pytest.approx(value, rel=100 * TOLERANCE)


@pytest.mark.parametrize(("metric", "options"), METRICS)
@pytest.mark.parametrize("level", ["scene", 0, 128, 255])
def test_three_equal_images_are_perfect(metric, options: dict, level: str | int) -> None:
    plane = scene(3)[0] if level == "scene" else torch.full((1, 1, 20, 33), float(level), dtype=torch.float64)
    # Transforms of equal planes may differ in their last bits.
    best = 0 if metric is qcv else 1
    assert metric(plane, plane, plane, **options).item() == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize(("metric", "options"), METRICS)
def test_degenerate_images_have_defined_scores(metric, options: dict) -> None:
    fused, infrared, visible = scene(4, 16, 17)
    flats = [torch.full_like(fused, level) for level in (0.0, 77.0, 255.0)]
    for first in (fused, 255 - fused, *flats):
        for second in (infrared, *flats):
            for third in (visible, *flats):
                score = metric(first, second, third, **options).item()
                assert 0 <= score <= (1 if metric is qcb else 255**2)


def test_flat_sources() -> None:
    fused = scene(5, 32, 32)[0]
    low, high = torch.full_like(fused, 60), torch.full_like(fused, 90)
    # Qcv: all blocks weigh the same: the sensitivity to a constant is 2.6 * 0.0192.
    expected = (2.6 * 0.0192) ** 2 * (30**2 + 60**2) / 2
    assert qcv(torch.full_like(fused, 120), low, high).item() == pytest.approx(expected)
    # Qcb: constants have no contrast, whatever their level; a fused image that has some keeps nothing.
    assert qcb(low, low, high).item() == pytest.approx(1, abs=1e-12)
    assert qcb(fused, low, high).item() < 1e-6


@pytest.mark.parametrize(("metric", "options"), METRICS)
def test_images_of_a_batch_do_not_meet_and_sharing_changes_nothing(metric, options: dict) -> None:
    planes = scene(6, count=3)
    together = metric(*planes, **options)
    alone = [metric(*(plane[index : index + 1] for plane in planes), **options) for index in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-10, atol=0)
    with sharing():
        torch.testing.assert_close(metric(*planes, **options), together, rtol=1e-12, atol=0)
    single = metric(*(plane.float() for plane in planes), **options)
    assert single.dtype == torch.float32
    # Masked contrasts of float32 are good to some 1e-3.
    torch.testing.assert_close(single.double(), together, rtol=1e-2, atol=1e-3)


def test_derivatives_are_right_and_finite() -> None:
    _, infrared, visible = scene(7, 16, 17)
    fused = (0.6 * infrared + 0.4 * visible).requires_grad_()
    direction = torch.randn(fused.shape, dtype=fused.dtype, generator=torch.Generator().manual_seed(0))
    for metric in (qcv, qcb):
        fused.grad = None
        metric(fused, infrared, visible).sum().backward()
        with torch.no_grad():
            ahead, behind = (metric(fused + step * direction, infrared, visible) for step in (1e-5, -1e-5))
        assert (fused.grad * direction).sum().item() == pytest.approx(
            ((ahead - behind) / 2e-5).item(), rel=1e-4
        )
        for level in (0.0, 80.0):
            flat = torch.full_like(infrared, level).requires_grad_()
            metric(flat, torch.full_like(infrared, 80), visible).sum().backward()
            assert flat.grad.isfinite().all()


def pictures() -> tuple[Tensor, Tensor, Tensor]:
    """A warm disc, soft stripes, and their mean with the disc kept."""
    rows, columns = torch.meshgrid(*(torch.arange(96, dtype=torch.float64),) * 2, indexing="ij")
    infrared = 40 + 160 * torch.sigmoid(12 - ((rows - 30) ** 2 + (columns - 34) ** 2).sqrt())
    visible = 90 + 40 * (columns / 4).sin() * torch.sigmoid((rows - 50) / 4)
    return torch.maximum(infrared, visible)[None, None], infrared[None, None], visible[None, None]


def test_worse_images_score_worse() -> None:
    fused, infrared, visible = pictures()
    noise = torch.randn(fused.shape, dtype=fused.dtype, generator=torch.Generator().manual_seed(1))
    worse = {
        "noise": [(fused + deviation * noise).clamp(0, 255) for deviation in (0, 4, 12, 40)],
        "blur": [torch.from_numpy(gaussian_filter(fused.numpy(), (0, 0, s, s))) for s in (0.01, 3, 6, 12)],
        "contrast": [128 + (fused - 128) * factor for factor in (1, 0.7, 0.4, 0.1)],
    }
    for grades in worse.values():
        seen = [qcv(grade, infrared, visible).item() for grade in grades]
        kept = [qcb(grade, infrared, visible).item() for grade in grades]
        assert seen == sorted(seen)
        assert kept == sorted(kept, reverse=True)


def test_what_they_do_not_see() -> None:
    fused, infrared, visible = pictures()
    # Qcv: what happens where the sources have no edges, here a white square in a flat corner.
    marked = fused.clone()
    marked[..., 0:12, 80:96] = 255
    plain = qcv(fused, infrared, visible).item()
    assert qcv(marked, infrared, visible).item() == pytest.approx(plain, rel=0.05)
    # Qcb: brightness as such, since contrast is a ratio.
    dark = [plane / 2 for plane in (fused, infrared, visible)]
    assert qcb(*dark).item() == pytest.approx(qcb(fused, infrared, visible).item(), rel=TOLERANCE)
    # Stretching hides a loss of contrast from both.
    weak = 100 + (fused - 100) * 0.1
    for metric in (qcv, qcb):
        hidden, full = (metric(plane, infrared, visible, stretch="exact").item() for plane in (weak, fused))
        assert hidden == pytest.approx(full, rel=1e-6)


def test_a_frame_of_zeros_outweighs_the_scene() -> None:
    _, source, other = scene(8, 64, 64)
    wrong_centre = source.clone()
    wrong_centre[..., 16:48, 16:48] = other[..., 16:48, 16:48]
    wrong_rim = other.clone()
    wrong_rim[..., 16:48, 16:48] = source[..., 16:48, 16:48]
    # With zeros around the image its centre counts for less, next to its rim.
    mirror, zero = (
        qcv(wrong_centre, source, source, border=border) / qcv(wrong_rim, source, source, border=border)
        for border in ("mirror", "zero")
    )
    assert zero < mirror / 2


def test_what_they_cannot_take_is_named() -> None:
    planes = scene(9)
    for metric, option in (
        *((metrics.qcv, option) for option in ("stretch", "border", "blocks")),
        (metrics.qcb, "frequency"),
    ):
        with pytest.raises(ValueError, match=f"{option} is 'other'; expected one of"):
            metric(*planes, **{option: "other"})
    with pytest.raises(ValueError, match="Qcv: fused is 15x50 px"):
        metrics.qcv(*(plane[:, :, :15] for plane in planes), data_range=255)
