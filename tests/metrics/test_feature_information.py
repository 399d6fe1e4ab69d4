"""FMI against a slow loop over windows, written from the definition."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from clipfuse import metrics
from clipfuse.metrics import feature_information
from clipfuse.metrics.definition import DEFINITIONS
from clipfuse.metrics.feature_information import gradient_magnitude

# What is tested here is the definition, on planes in 0..255; checks and rounding: test_definition.
fmi_gradient, fmi_pixel = (DEFINITIONS["FMI-gradient"].kernel, DEFINITIONS["FMI-pixel"].kernel)

# A window: 17 terms of order 1 in float32, from bounds of 30 bits (1e-9), over an entropy of 0.01 or more;
# 2.6e-7 was the most in 80,000 windows. Over an image these errors cancel out, to 1e-8.
WINDOW_TOLERANCE = {"rel": 0, "abs": 1e-6}
TOLERANCE = {"rel": 0, "abs": 1e-7}
FEATURES = {"pixel": lambda plane: plane, "gradient": gradient_magnitude}
SCORES = {"pixel": fmi_pixel, "gradient": fmi_gradient}


def marginal(patch: np.ndarray) -> np.ndarray:
    values = patch.ravel() - patch.min()
    return values / values.sum() if values.any() else np.full(values.size, 1 / values.size)


def window_score(x: np.ndarray, y: np.ndarray) -> float:
    """Nelsen's joint distribution cell by cell, from both bounds on its distribution function."""
    if np.ptp(x) == 0 and np.ptp(y) == 0:
        return 1.0
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    p, q = marginal(x), marginal(y)
    size = p.size
    if p.max() == 1 and q.max() == 1:
        return float(p.argmax() == q.argmax())
    correlation = np.corrcoef(p, q)[0, 1]

    def distribution(i: int, j: int) -> float:
        below, above = p[: i + 1].sum(), q[: j + 1].sum()
        return min(below, above) if correlation > 0 else max(below + above - 1, 0.0)

    bound = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            corners = ((i, j, 1), (i - 1, j, -1), (i, j - 1, -1), (i - 1, j - 1, 1))
            bound[i, j] = sum(sign * distribution(a, b) for a, b, sign in corners if a >= 0 and b >= 0)
    ranks = np.arange(size)
    means = (ranks @ p, ranks @ q)
    deviations = [math.sqrt(((ranks - mean) ** 2) @ share) for mean, share in zip(means, (p, q), strict=True)]
    most = (ranks @ bound @ ranks - means[0] * means[1]) / math.prod(deviations) if all(deviations) else 0
    mixture = min(1.0, correlation / most) if most else 0.0
    joint = mixture * bound + (1 - mixture) * np.outer(p, q)
    cells = [(joint[i, j], p[i] * q[j]) for i in range(size) for j in range(size) if joint[i, j] > 1e-15]
    information = sum(mass * math.log2(mass / product) for mass, product in cells)
    entropy = -sum(share * math.log2(share) for share in (*p, *q) if share > 0)
    return 2 * information / entropy


def slow(fused: Tensor, infrared: Tensor, visible: Tensor, feature: str) -> float:
    planes = [FEATURES[feature](plane)[0, 0].numpy() for plane in (fused, infrared, visible)]
    height, width = planes[0].shape
    scores = []
    for top in range(height - 2):
        for left in range(width - 2):
            f, a, b = (plane[top : top + 3, left : left + 3] for plane in planes)
            scores.append((window_score(a, f) + window_score(b, f)) / 2)
    return sum(scores) / len(scores)


def draw(*size: int, seed: int = 0, most: int = 255) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, most + 1, size, generator=generator).double()


def scene(shape: tuple[int, int] = (48, 64)) -> tuple[Tensor, Tensor, Tensor]:
    """Smooth sources, of which one has a flat part, and their rounded average."""
    rows, columns = torch.meshgrid(*(torch.linspace(0, 1, side).double() for side in shape), indexing="ij")
    infrared = 40 + 190 * torch.exp(-((rows - 0.5).square() + (columns - 0.4).square()) / 0.02)
    visible = 128 + 100 * torch.sin(9 * columns) * torch.cos(5 * rows)
    infrared, visible = infrared.round()[None, None], visible.round()[None, None]
    return ((infrared + visible) / 2).round(), infrared, visible


CASES = {
    "noise": lambda: [draw(1, 1, 11, 14, seed=seed) for seed in range(3)],
    "few levels": lambda: [draw(1, 1, 12, 12, seed=seed, most=1) for seed in range(3)],
    "single dots": lambda: [(draw(1, 1, 13, 13, seed=seed, most=15) == 0).double() for seed in range(3)],
    "smooth": lambda: scene((12, 17)),
    "inverted": lambda: [255 - scene((12, 17))[1], *scene((12, 17))[1:]],
    "smallest": lambda: [draw(1, 1, 3, 3, seed=seed) for seed in range(3)],
    "one row of windows": lambda: [draw(1, 1, 3, 9, seed=seed) for seed in range(3)],
    "fractions": lambda: [draw(1, 1, 9, 9, seed=seed) / 7 for seed in range(3)],
}


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("case", CASES)
def test_the_value_is_that_of_the_slow_loop(case: str, feature: str) -> None:
    planes = CASES[case]()
    value = SCORES[feature](*planes).item()
    few = planes[0].numel() < 100
    expected = pytest.approx(slow(*planes, feature), **(WINDOW_TOLERANCE if few else TOLERANCE))
    assert value == expected
    # What a graphics card computes, of torch tensors, is the same code.
    features = [FEATURES[feature](plane)[0, 0] for plane in planes]
    windows = (planes[0].shape[2] - 2) * (planes[0].shape[3] - 2)
    assert (feature_information._sum(torch, features) / windows).item() == expected


def test_each_window_is_that_of_the_slow_loop() -> None:
    cases = [draw(1, 1, 3, 3, seed=seed, most=most) for most in (2, 255) for seed in range(30)]
    peaks = [torch.zeros(1, 1, 3, 3).double().flatten().index_fill(0, torch.tensor([i]), 9) for i in range(9)]
    cases += [peak.view(1, 1, 3, 3) + low for peak in peaks for low in (0, cases[7] // 128)]
    for fused, source in zip(cases, [*cases[5:], *cases[:5]], strict=True):
        expected = window_score(source[0, 0].numpy(), fused[0, 0].numpy())
        assert fmi_pixel(fused, source, source).item() == pytest.approx(expected, **WINDOW_TOLERANCE)


def test_a_batch_is_its_images_in_whatever_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    planes = [torch.cat([plane, draw(1, 1, 48, 64), torch.full_like(plane, 9)]) for plane in scene()]
    single = torch.cat([fmi_pixel(*(p[i : i + 1] for p in planes)) for i in range(3)])
    order = {"rtol": 0, "atol": 1e-12}  # means of 2852 windows of at most 1, in another order: n * 2**-53
    torch.testing.assert_close(fmi_pixel(*planes), single, **order)
    monkeypatch.setattr(feature_information, "WINDOWS", 1500)
    parts = fmi_pixel(*planes)
    torch.testing.assert_close(parts, single, **order)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert fmi_pixel(*planes).equal(parts)
    assert fmi_pixel(*(p[:0] for p in planes)).shape == (0,)
    narrow = fmi_pixel(*(p.float() for p in planes))
    assert narrow.dtype == torch.float32
    # Two float64 sums that differ in their last bits may round to neighbours in float32.
    torch.testing.assert_close(narrow, single.float(), rtol=2**-23, atol=0)


@pytest.mark.parametrize("feature", FEATURES)
def test_identities_and_constants(feature: str) -> None:
    _, infrared, visible = scene()
    flat, black = torch.full_like(visible, 77), torch.zeros_like(visible)

    def score(*planes: Tensor) -> float:
        return SCORES[feature](*planes).item()

    for plane in (visible, flat, black, draw(1, 1, 48, 64)):
        assert score(plane, plane, plane) == pytest.approx(1, abs=1e-12)
    assert score(infrared, infrared, visible) == score(visible, infrared, visible)  # copies are a tie
    # A constant fused image is right just where there is nothing to be told.
    windows = FEATURES[feature](torch.cat([infrared, visible])).unfold(2, 3, 1).unfold(3, 3, 1)
    empty = (windows.amax((4, 5)) == windows.amin((4, 5))).double().mean().item()
    assert score(flat, infrared, visible) == pytest.approx(empty, **TOLERANCE)
    assert score(black, infrared, visible) == score(flat, infrared, visible)


def test_brightness_and_contrast_do_not_count() -> None:
    fused, infrared, visible = scene()
    before = fmi_pixel(fused, infrared, visible)
    after = fmi_pixel(fused / 2 + 20, infrared, visible)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-7)


def test_an_inversion_costs_something_in_pixels_and_nothing_in_gradients() -> None:
    fused, infrared, visible = scene()
    assert 0 < fmi_pixel(255 - visible, visible, visible) < 1
    torch.testing.assert_close(
        fmi_gradient(255 - fused, infrared, visible),
        fmi_gradient(fused, infrared, visible),
    )


@pytest.mark.parametrize("feature", FEATURES)
def test_a_worse_image_scores_less(feature: str) -> None:
    def score(plane: Tensor) -> float:
        return SCORES[feature](plane, infrared, visible).item()

    fused, infrared, visible = scene()
    noise = 12 * torch.randn(fused.shape, generator=torch.Generator().manual_seed(1)).double()
    assert score((fused + noise).round().clamp(0, 255)) < score(fused)
    assert score(avg_pool2d(fused, 9, stride=1, padding=4).round()) < score(fused)


def test_gradients_are_central_and_one_sided_at_the_border() -> None:
    row = torch.tensor([0.0, 1, 4, 9]).double().expand(1, 1, 3, 4)
    assert gradient_magnitude(row)[0, 0, 0].tolist() == [1, 2, 4, 5]


def test_errors_and_definitions() -> None:
    planes = [draw(1, 1, 8, 9)] * 3
    with pytest.raises(ValueError, match=r"FMI-pixel: fused is 2x9 px"):
        metrics.fmi_pixel(*(plane[:, :, :2] for plane in planes), data_range=255)
    for name in ("FMI-pixel", "FMI-gradient"):
        assert DEFINITIONS[name].bounds == (0, 1)
        assert DEFINITIONS[name].higher_is_better
