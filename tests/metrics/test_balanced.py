from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import binary_dilation, correlate, label, map_coordinates, uniform_filter
from torch import Tensor
from torch.nn.functional import conv2d, pad

from clipfuse.data.synthetic import render
from clipfuse.data.transforms import whole
from clipfuse.metrics.definition import DEFINITIONS
from clipfuse.metrics.protocols import BALANCED, PROTOCOLS, STRICT
from clipfuse.metrics.verdict import BALANCED as VERDICT
from clipfuse.metrics.verdict import CLASSIC, FAMILIES, VERDICTS
from clipfuse.ops.pyramid import energy_fusion, pyramid_fusion

# What is tested here is the definition, on planes in 0..255; checks and rounding: test_definition.
clean_detail, kept_information, kept_structure, kept_targets, local_detail = (
    DEFINITIONS["clean-detail"].kernel,
    DEFINITIONS["kept-information"].kernel,
    DEFINITIONS["kept-structure"].kernel,
    DEFINITIONS["kept-targets"].kernel,
    DEFINITIONS["local-detail"].kernel,
)

Planes = tuple[np.ndarray, np.ndarray, np.ndarray]
STABLE = (0.03 * 255) ** 2
NAMES = [name for members in FAMILIES.values() for name in members]


def planes(seed: int = 0, size: tuple[int, int] = (37, 45)) -> list[Tensor]:
    """Fused, infrared, visible: noise about something smooth, in 0..255, each band stronger somewhere."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(3, 1, 1, *size, dtype=torch.float64, generator=generator) - 0.5
    ramp = torch.linspace(0.1, 1, size[1], dtype=torch.float64)
    infrared, visible = 128 + 200 * noise[0] * ramp, 110 + 150 * noise[1] * ramp.flip(0)
    return [(infrared + visible) / 2 + 60 * noise[2], infrared, visible]


def regions(size: tuple[int, int] = (37, 45)) -> Tensor:
    """Three targets: one alone, two whose rings touch the other, one at the border."""
    mask = torch.zeros(1, 1, *size, dtype=torch.bool)
    mask[..., 5:9, 6:12] = True
    mask[..., 12:15, 12:20] = True
    mask[..., 30:, 40:] = True
    return mask


def joined(scores: list[float]) -> float:
    """The mean of power -2 of what there is."""
    kept = np.array([score for score in scores if not np.isnan(score)])
    return float(np.mean(kept**-2.0) ** -0.5)


def windows(plane: np.ndarray) -> np.ndarray:
    return sliding_window_view(plane, (7, 7)).reshape(-1, 49)


def halved(plane: np.ndarray) -> np.ndarray:
    plane = np.pad(plane, ((0, plane.shape[0] % 2), (0, plane.shape[1] % 2)), mode="edge")
    return plane.reshape(plane.shape[0] // 2, 2, -1, 2).mean((1, 3))


def slow_information(fused: np.ndarray, infrared: np.ndarray, visible: np.ndarray) -> float:
    logs, weights = np.zeros(2), np.zeros(2)
    for _ in range(3):
        f, *bands = (windows(plane) for plane in (fused, infrared, visible))
        for k in range(len(f)):
            energies = [band[k].var(ddof=1) for band in bands]
            band = int(energies[1] > energies[0])
            whole_ = np.log(1 + energies[band] / STABLE)
            kept = np.log(1 + energies[band] / ((f[k] - bands[band][k]).var(ddof=1) + STABLE)) / whole_
            logs[band] += whole_ * np.log(kept) / len(f)
            weights[band] += whole_ / len(f)
        fused, infrared, visible = halved(fused), halved(infrared), halved(visible)
    return joined(list(np.exp(logs / weights)))


def slow_structure(fused: np.ndarray, infrared: np.ndarray, visible: np.ndarray) -> float:
    f, *bands = (windows(plane) for plane in (fused, infrared, visible))
    sums, weights = np.zeros(2), np.zeros(2)
    for k in range(len(f)):
        energies = [band[k].var(ddof=1) for band in bands]
        band = int(energies[1] > energies[0])
        both = np.cov(f[k], bands[band][k])
        weight = energies[band] / (energies[band] + STABLE)
        sums[band] += weight * (2 * both[0, 1] + STABLE) / (both[0, 0] + both[1, 1] + STABLE)
        weights[band] += weight
    return joined(list(sums / weights))


def gradients(plane: np.ndarray) -> np.ndarray:
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    return np.stack([correlate(plane, kernel, mode="mirror"), correlate(plane, kernel.T, mode="mirror")])


def detail_sums(
    fused: np.ndarray, infrared: np.ndarray, visible: np.ndarray, counted: np.ndarray
) -> list[float]:
    """Each band's score of the gradients at the pixels that count."""
    f, *bands = (gradients(plane) for plane in (fused, infrared, visible))
    warm, seen = (uniform_filter((g**2).sum(0), 5, mode="nearest") for g in bands)
    scores = []
    for g, here in ((bands[0], warm >= seen), (bands[1], warm < seen)):
        energy = (g**2).sum(0)[here & counted].sum()
        scores.append(energy / (energy + ((f - g) ** 2).sum(0)[here & counted].sum()))
    return scores


def slow_detail(fused: np.ndarray, infrared: np.ndarray, visible: np.ndarray) -> float:
    return joined(detail_sums(fused, infrared, visible, ~regions()[0, 0].numpy()))


def details(plane: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    found = []
    for _ in range(3):
        small = halved(plane)
        places = [(np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(plane.shape, small.shape, strict=True)]
        large = map_coordinates(small, np.meshgrid(*places, indexing="ij"), order=1, mode="nearest")
        found.append(plane - large)
        plane = small
    return found, plane


def slow_clean(fused: np.ndarray, infrared: np.ndarray, visible: np.ndarray) -> float:
    (ours, base), *others = (details(plane) for plane in (fused, infrared, visible))
    kept, errors = np.zeros(2), np.zeros(2)
    for d, i, v in zip(ours, others[0][0], others[1][0], strict=True):
        for a, b, c in zip(d.flat, i.flat, v.flat, strict=True):
            band = int(abs(c) > abs(b))
            strong = (b, c)[band]
            invented = max(0, a - max(b, c, 0)) + max(0, min(b, c, 0) - a)
            lost = abs(a - strong) - invented
            kept[band] += abs(strong) / d.size
            errors[band] += (1.5 * invented + lost) / d.size
    low, high = np.minimum(others[0][1], others[1][1]), np.maximum(others[0][1], others[1][1])
    foreign = np.maximum(0, base - high) + np.maximum(0, low - base)
    return joined(list(kept / (kept + errors + 0.15 * foreign.mean())))


def slow_targets(fused: np.ndarray, infrared: np.ndarray, visible: np.ndarray) -> float:
    targets = regions()[0, 0].numpy()
    labels, count = label(targets, structure=np.ones((3, 3)))
    scores, union = [], np.zeros_like(targets)
    for number in range(1, count + 1):
        target = labels == number
        region = target | (binary_dilation(target, structure=np.ones((15, 15))) & ~targets)
        both = np.cov(fused[region], infrared[region], ddof=0)
        scores.append(max(0, (2 * both[0, 1] + STABLE) / (both[0, 0] + both[1, 1] + STABLE)))
        union |= region
    return joined([float(np.mean(scores)), detail_sums(fused, infrared, visible, union)[1]])


TWINS: dict[str, Callable[..., float]] = {
    "kept-information": slow_information,
    "kept-structure": slow_structure,
    "local-detail": slow_detail,
    "clean-detail": slow_clean,
    "kept-targets": slow_targets,
}


def score(name: str, triple: list[Tensor], mask: Tensor | None = None) -> Tensor:
    definition = DEFINITIONS[name]
    return definition.kernel(*triple, **({"target_mask": mask} if definition.takes_mask else {}))


def test_every_metric_of_the_set_has_a_twin() -> None:
    assert list(TWINS) == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [0, 1])
def test_metrics_equal_their_definitions(name: str, seed: int) -> None:
    triple = planes(seed)
    expected = TWINS[name](*(plane[0, 0].numpy() for plane in triple))
    assert 0.05 < expected < 0.95
    # Moments as differences of squares of numbers near 100 lose some four of sixteen digits.
    assert score(name, triple, regions()).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_equal_images_score_one_and_flat_bands_are_not_defined(name: str) -> None:
    plane, flat = planes()[1], torch.full((1, 1, 37, 45), 7.0, dtype=torch.float64)
    assert score(name, [plane] * 3, regions()).item() == pytest.approx(1, abs=1e-12)
    alone = score(name, [planes()[0], plane, flat], regions())
    assert 0 < alone.item() < 1  # the flat band has no say
    if name != "kept-targets":
        assert score(name, [plane, flat, flat], regions()).isnan()
        swapped = score(name, [planes()[0], flat, plane], regions())
        assert swapped.item() == pytest.approx(alone.item(), rel=1e-12)
    inverted = score(name, [255 - plane, plane, plane], regions()).item()
    assert 0 <= inverted < 0.6


def test_targets_are_needed() -> None:
    triple = planes()
    nothing = torch.zeros(1, 1, 37, 45, dtype=torch.bool)
    assert kept_targets(*triple, target_mask=nothing).isnan()
    assert kept_targets(*triple, target_mask=~nothing).isnan()  # no ring
    two = [torch.cat([plane, plane]) for plane in triple]
    found = kept_targets(*two, target_mask=torch.cat([nothing, regions()]))
    assert found[0].isnan()
    assert found[1] == kept_targets(*triple, target_mask=regions())[0]


def test_gradients() -> None:
    triple = [plane.requires_grad_() for plane in planes(size=(28, 26))]
    mask = regions((28, 26))
    for metric in (kept_information, kept_structure, local_detail, clean_detail):
        assert torch.autograd.gradcheck(metric, tuple(triple), fast_mode=True)
    assert torch.autograd.gradcheck(
        lambda *each: kept_targets(*each, target_mask=mask), tuple(triple), fast_mode=True
    )
    flat = torch.full_like(triple[0], 7.0).requires_grad_()
    for name in NAMES:
        value = score(name, [flat, triple[1], flat], mask).sum()
        (gradient,) = torch.autograd.grad(value, flat)
        assert gradient.isfinite().all(), name


@cache
def scene(index: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A rendered pair in [0, 1], and its targets."""
    found = whole(render(0, index, 128))
    assert found.target_mask is not None
    return found.infrared, found.visible, found.target_mask


def levels(plane: Tensor) -> Tensor:
    return plane.double().mul(255).round().clamp(0, 255)


def blurred(plane: Tensor, sigma: float) -> Tensor:
    reach = round(3 * sigma)
    taps = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    kernel = (taps[:, None] * taps / taps.sum() ** 2)[None, None]
    return conv2d(pad(plane, (reach,) * 4, mode="reflect"), kernel)


def noisy(plane: Tensor, level: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return plane + level / 255 * torch.randn(plane.shape, generator=generator)


def worse(way: str, plane: Tensor) -> list[Tensor]:
    """The plane made worse in one way at three strengths."""
    infrared, visible, _ = scene()
    if way == "noise":
        return [noisy(plane, level) for level in (5, 10, 20)]
    if way == "blur":
        return [blurred(plane, sigma) for sigma in (1, 2, 4)]
    if way == "stretch":
        return [plane.mean() + factor * (plane - plane.mean()) for factor in (1.3, 1.7, 2.2)]
    if way == "sharpening":
        return [plane + weight * (plane - blurred(plane, 1)) for weight in (0.5, 1.5, 3)]
    band = infrared if way == "infrared" else visible
    return [(1 - share) * plane + share * band for share in (0.5, 0.75, 1)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", ["noise", "blur", "stretch", "sharpening", "infrared", "visible"])
def test_every_metric_falls_with_every_degradation(name: str, way: str) -> None:
    infrared, visible, mask = scene()
    base = energy_fusion(infrared, visible).clamp(0, 1)  # the one that ranks first
    rows = [
        score(name, [levels(plane) for plane in (fused, infrared, visible)], mask).item()
        for fused in (base, *worse(way, base))
    ]
    assert rows == sorted(rows, reverse=True)
    assert len(set(rows)) == 4


def test_noise_never_raises_local_detail() -> None:
    infrared, visible, _ = (plane.double() for plane in scene())
    bands = [255 * infrared, 255 * visible]
    for base in (infrared, visible, (infrared + visible) / 2, torch.full_like(visible, 0.4)):
        rows = [local_detail(255 * (0.3 + base / 2.5), *bands).item()]
        for level in (2, 6, 12):
            fused = [255 * noisy(0.3 + base / 2.5, level, seed) for seed in range(3)]
            rows.append(np.mean([local_detail(plane, *bands).item() for plane in fused]))
        assert rows == sorted(rows, reverse=True)
        assert len(set(rows)) == 4


@pytest.mark.parametrize("index", range(4))
def test_no_copy_ranks_before_the_pyramid(index: int) -> None:
    infrared, visible, mask = scene(index)
    bands = [levels(plane) for plane in (infrared, visible)]
    copies = [infrared, visible, 0.95 * infrared + 0.05 * visible, 0.95 * visible + 0.05 * infrared]
    fused = [pyramid_fusion(infrared, visible).clamp(0, 1), *copies]
    votes = []
    for members in VERDICT.families(NAMES).values():
        scores = [[score(name, [levels(plane), *bands], mask).item() for plane in fused] for name in members]
        assert np.isfinite(scores).all()
        votes.append(np.mean([[sum(b > a for b in row) for a in row] for row in scores], 0))
    ranks = np.mean(votes, 0)
    assert ranks.argmin() == 0
    assert (ranks[1:] > ranks[0]).all()


def test_verdict_sets() -> None:
    assert [str(each) for each in VERDICTS.values()] == ["balanced-1", "balanced+machine-1", "classic-1"]
    available = ["SSIM", "local-detail", "kept-information", "noise", "VIF", "my-own"]
    assert VERDICT.families(available) == {
        "information": ("kept-information",),
        "detail": ("local-detail",),
    }
    assert VERDICT.families(["SSIM"]) == {}
    assert CLASSIC.families([*available, "SSIM"]) == {
        "SSIM": ("SSIM",),
        "VIF": ("VIF",),
        "my-own": ("my-own",),
    }
    for protocol in PROTOCOLS.values():
        assert CLASSIC.families(protocol.metrics)


def test_what_a_new_version_changes_is_on_record() -> None:
    assert str(STRICT) == "strict-2"
    assert set(STRICT.since) == {"local-detail", *BALANCED}
    for protocol in PROTOCOLS.values():
        assert set(protocol.since) <= set(protocol.metrics)
        assert all(1 < version <= protocol.version for version in protocol.since.values())
    assert STRICT.metrics[-len(BALANCED) :] == BALANCED
