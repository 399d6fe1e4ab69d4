"""Qabf and Nabf against loops over pixels, and what they do and do not notice."""

from collections.abc import Callable
from math import atan, exp, pi, sqrt

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d
from torch import Tensor

from clipfuse import metrics
from clipfuse.metrics.definition import DEFINITIONS
from clipfuse.metrics.gradients import edge_angle, edge_strength
from clipfuse.metrics.sharing import sharing

# What is tested here is the definition, on planes in 0..255; checks and rounding: test_definition.
nabf, qabf = (DEFINITIONS["Nabf"].kernel, DEFINITIONS["Qabf"].kernel)

# Two float64 sums of a few hundred terms in another order; sigmoids of slope 22 multiply by about ten.
TOLERANCE = 1e-9
PERFECT = 0.9994 / (1 + exp(-7.5)) * 0.9879 / (1 + exp(-4.4))
SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
ANGLES = np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]])
PUBLISHED = {"equal_gradient": "gradient", "wrap_angle": False}


def scene(seed: int, height: int = 19, width: int = 23, count: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Whole grey levels; flat regions, equal gradients and upright edges among them."""
    generator = np.random.default_rng(seed)
    infrared = generator.integers(0, 256, (count, 1, height, width)).astype(float)
    visible = gaussian_filter(generator.normal(128, 300, (count, 1, height, width)), (0, 0, 2, 2)).round()
    infrared[..., : width // 2] = 40
    infrared[..., : height // 3, width // 4 :] = 200
    fused = np.maximum(infrared, visible)
    return tuple(torch.from_numpy(plane.clip(0, 255)) for plane in (fused, infrared, visible))


def slopes(plane: np.ndarray, border: str) -> tuple[np.ndarray, np.ndarray]:
    framed = np.pad(plane, 1, mode={"zero": "constant", "mirror": "reflect"}[border])
    return convolve2d(framed, SOBEL, "valid"), convolve2d(framed, ANGLES, "valid")


def strength_and_angle(x: float, y: float) -> tuple[float, float]:
    return sqrt(x * x + y * y), pi / 2 if x == 0 else atan(y / x)


def slow_qabf(*planes: np.ndarray, equal_gradient: str = "one", wrap_angle: bool = True) -> float:
    fields = [slopes(plane, "zero") for plane in planes]
    kept = total = 0.0
    for pixel in np.ndindex(planes[0].shape):
        (gf, af), *sources = [strength_and_angle(x[pixel], y[pixel]) for x, y in fields]
        for g, a in sources:
            equal = 1.0 if equal_gradient == "one" else gf
            ratio = equal if g == gf else min(g, gf) / max(g, gf)
            turn = abs(a - af)
            if wrap_angle:
                turn = min(turn, pi - turn)
            alike = 1 - turn / (pi / 2)
            kept += g * 0.9994 / (1 + exp(-15 * (ratio - 0.5))) * 0.9879 / (1 + exp(-22 * (alike - 0.8)))
            total += g
    return kept / total


def slow_nabf(*planes: np.ndarray, least_weight: float = 0.001) -> float:
    fields = [slopes(plane / 8, "mirror") for plane in planes]
    lost = total = 0.0
    for pixel in np.ndindex(planes[0].shape):
        (gf, af), *sources = [strength_and_angle(x[pixel], y[pixel]) for x, y in fields]
        for g, a in sources:
            weight = g**1.5 if g >= 2 else least_weight
            total += weight
            if all(gf > other for other, _ in sources):
                turn = abs(a - af)
                alike = 1 - min(turn, pi - turn) / (pi / 2)
                squares = 0.9999 / (1 + exp(-19 * (g / gf - 0.5))) * 0.9995 / (1 + exp(-22 * (alike - 0.5)))
                lost += weight * (1 - sqrt(squares))
    return lost / total


@pytest.mark.parametrize("options", [{}, PUBLISHED, {"equal_gradient": "gradient"}, {"wrap_angle": False}])
@pytest.mark.parametrize("size", [(19, 23), (2, 9), (1, 5)])
def test_qabf_is_the_loop_over_pixels(options: dict, size: tuple[int, int]) -> None:
    planes = scene(1, *size)
    expected = slow_qabf(*(plane[0, 0].numpy() for plane in planes), **options)
    assert qabf(*planes, **options).item() == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("options", [{}, {"least_weight": 0.0}])
@pytest.mark.parametrize("size", [(19, 23), (2, 9)])
def test_nabf_is_the_loop_over_pixels(options: dict, size: tuple[int, int]) -> None:
    _, infrared, visible = scene(2, *size)
    fused = (1.4 * infrared - 0.4 * visible).clamp(0, 255).round()
    planes = fused, infrared, visible
    expected = slow_nabf(*(plane[0, 0].numpy() for plane in planes), **options)
    assert expected > 0
    assert nabf(*planes, **options).item() == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("protocol", ["ivif_zoo", "vifb", "cddfuse"])
def test_kits_keep_both_flaws_of_qabf(scored: Callable[..., float], protocol: str) -> None:
    planes = scene(1)
    plain = [plane[0, 0].numpy() for plane in planes]
    expected = slow_qabf(*plain, equal_gradient="gradient", wrap_angle=False)
    assert scored(protocol, "Qabf", *planes) == pytest.approx(expected, rel=TOLERANCE)
    for one_flaw in ({"equal_gradient": "gradient"}, {"wrap_angle": False}):
        assert abs(slow_qabf(*plain, **one_flaw) - expected) > 1e-4


def test_ivif_zoo_weighs_flat_pixels_with_nothing(scored: Callable[..., float]) -> None:
    _, infrared, visible = scene(2)
    planes = (1.4 * infrared - 0.4 * visible).clamp(0, 255).round(), infrared, visible
    fused, *sources = (plane[0, 0].numpy() for plane in planes)
    weightless = slow_nabf(fused, *sources, least_weight=0.0)
    assert scored("ivif_zoo", "Nabf", *planes) == pytest.approx(weightless, rel=TOLERANCE)
    assert abs(weightless / slow_nabf(fused, *sources) - 1) > 100 * TOLERANCE


@pytest.mark.parametrize("level", ["scene", 0, 128, 255])
def test_three_equal_images_are_perfect(level: str | int) -> None:
    plane = scene(4)[0] if level == "scene" else torch.full((1, 1, 9, 8), float(level), dtype=torch.float64)
    assert qabf(plane, plane, plane).item() == pytest.approx(PERFECT, rel=TOLERANCE)
    assert pytest.approx(0.9748, abs=5e-5) == PERFECT
    assert nabf(plane, plane, plane).item() == 0
    # G of an equal gradient is the gradient: the sigmoid is past its end, or, without one, at its start.
    end = 0.9994 / (1 + exp(7.5)) if level == 0 else 0.9994
    published = qabf(plane, plane, plane, **PUBLISHED).item()
    assert published == pytest.approx(end * PERFECT / (0.9994 / (1 + exp(-7.5))), rel=TOLERANCE)


def test_flat_and_black_sources_have_defined_scores() -> None:
    fused = scene(5)[0]
    black = torch.zeros_like(fused)
    # The frame of zeros is no edge of a black image: 0/0, and all pixels weigh the same.
    assert qabf(black, black, black).item() == pytest.approx(PERFECT, rel=TOLERANCE)
    flat = (edge_strength(fused) < 1e-100).double().mean().item()
    assert qabf(fused, black, black).item() == pytest.approx(flat * PERFECT, abs=1e-3)
    for weight in (0.001, 0.0):
        artifacts = nabf(fused, black + 90, black + 30, least_weight=weight).item()
        new = (edge_strength(fused, "mirror") > 1e-100).double().mean().item()
        # Nothing is kept where there was nothing: Q is sqrt(0.9999 / (1 + exp(9.5)) * ...), below 0.01.
        assert 0.99 * new < artifacts <= new


def test_turned_by_half_an_edge_is_the_same_edge() -> None:
    # Nearly upright edges that lean to either side: the arctangents differ by nearly pi.
    ramp = torch.arange(32, dtype=torch.float64)
    left, right = ((4 * ramp[:, None] + lean * ramp).add(40)[None, None] for lean in (0.1, -0.1))
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    turn = (edge_angle(left)[inside].tan().atan() - edge_angle(right)[inside].tan().atan()).abs()
    assert turn.min() > 3
    assert qabf(left, right, right).item() > 0.9
    assert qabf(left, right, right, wrap_angle=False).item() < 0.5


def test_images_of_a_batch_do_not_meet_and_sharing_changes_nothing() -> None:
    planes = scene(6, 17, 21, count=3)
    for metric in (qabf, nabf):
        together = metric(*planes)
        alone = [metric(*(plane[index : index + 1] for plane in planes)) for index in range(3)]
        assert together.shape == (3,)
        # Sums of 357 terms in another order, 357 * 2**-53; sigmoids multiply by about ten.
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=0)
        with sharing():
            torch.testing.assert_close(metric(*planes), together, rtol=1e-12, atol=0)
            assert edge_strength(planes[1]) is edge_strength(planes[1])
        assert metric(*(plane[:0] for plane in planes)).shape == (0,)
        single = metric(*(plane.float() for plane in planes))
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), together, rtol=1e-4, atol=1e-5)


def test_derivatives_are_finite_on_flat_images_and_right_elsewhere() -> None:
    generator = torch.Generator().manual_seed(0)
    infrared, visible = (
        255 * torch.rand(2, 1, 5, 6, dtype=torch.float64, generator=generator) for _ in range(2)
    )
    fused = (0.6 * infrared + 0.4 * visible).requires_grad_()
    assert torch.autograd.gradcheck(lambda plane: qabf(plane, infrared, visible), fused)
    assert torch.autograd.gradcheck(lambda plane: nabf(plane, infrared, visible), fused)
    for source in (infrared, torch.zeros_like(infrared), torch.full_like(infrared, 80)):
        flat = torch.full_like(infrared, 80).requires_grad_()
        for options in ({}, PUBLISHED):
            qabf(flat, source, visible, **options).sum().backward()
        nabf(flat, source, visible).sum().backward()
        assert flat.grad.isfinite().all()


def pictures() -> tuple[Tensor, Tensor, Tensor]:
    """A warm disc, stripes, and both in one image; smooth enough to be blurred and made noisy."""
    rows, columns = torch.meshgrid(*(torch.arange(64, dtype=torch.float64),) * 2, indexing="ij")
    infrared = 40 + 160 * (((rows - 20) ** 2 + (columns - 24) ** 2) < 120).double()
    visible = 90 + 50 * (columns // 5 % 2) * (rows > 34)
    return torch.maximum(infrared, visible)[None, None], infrared[None, None], visible[None, None]


def noisy(plane: Tensor, deviation: float) -> Tensor:
    noise = torch.randn(plane.shape, dtype=plane.dtype, generator=torch.Generator().manual_seed(1))
    return (plane + deviation * noise).clamp(0, 255).round()


def test_worse_images_score_worse() -> None:
    fused, infrared, visible = pictures()
    grades = [noisy(fused, deviation) for deviation in (0, 2, 8, 30)]
    kept = [qabf(grade, infrared, visible).item() for grade in grades]
    invented = [nabf(grade, infrared, visible).item() for grade in grades]
    assert kept == sorted(kept, reverse=True)
    assert invented == sorted(invented)
    blurred = [torch.from_numpy(gaussian_filter(fused.numpy(), (0, 0, s, s))) for s in (0.01, 1, 2, 4)]
    kept = [qabf(grade, infrared, visible).item() for grade in blurred]
    assert kept == sorted(kept, reverse=True)


def test_what_they_do_not_see() -> None:
    fused, infrared, visible = pictures()
    # Nabf: what is lost. A grey image has no artifact at all.
    assert nabf(torch.full_like(fused, 128), infrared, visible).item() == 0
    # Qabf: an edge where neither source has one weighs nothing, and a negative is perfect.
    marked = fused.clone()
    marked[..., 4:9, 50:58] = 255
    assert qabf(marked, infrared, visible).item() == pytest.approx(
        qabf(fused, infrared, visible).item(), abs=1e-3
    )
    assert nabf(marked, infrared, visible) > nabf(fused, infrared, visible)
    framed = torch.nn.functional.pad(infrared, (2, 2, 2, 2), value=127.5)
    assert qabf(255 - framed, framed, framed).item() == pytest.approx(PERFECT, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("metric", "option"),
    [(metrics.qabf, "equal_gradient"), (metrics.qcv, "border")],
)
def test_unknown_options_are_named(metric, option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} is 'other'; expected one of"):
        metric(*scene(7), **{option: "other"})


def test_sizes_below_the_smallest_are_named() -> None:
    with pytest.raises(ValueError, match="Nabf: fused is 1x23 px"):
        metrics.nabf(*(plane[:, :, :1] for plane in scene(8)), data_range=255)
