import pickle
import warnings
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, distributed
from torchmetrics import MetricCollection

from clipfuse.metrics.base import FusionMetric, FusionMetrics, RunMetrics
from clipfuse.metrics.definition import DEFINITIONS
from clipfuse.metrics.protocols import PROTOCOLS, STRICT
from clipfuse.testing.ranks import Ranks

SIZES = [(176, 170), (180, 240), (163, 200)]


def triple(seed: int, size: tuple[int, int] = (176, 170), count: int = 1) -> list[Tensor]:
    """Smooth sources with some noise, their average with a little more; in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2, count, 1, 12, 12, generator=generator)
    sources = [torch.nn.functional.interpolate(plane, size, mode="bicubic") for plane in coarse]
    noise = 0.05 * torch.randn(3, count, 1, *size, generator=generator)
    infrared, visible = (source + extra for source, extra in zip(sources, noise, strict=False))
    return [plane.clamp(0, 1) for plane in ((infrared + visible) / 2 + noise[2] / 2, infrared, visible)]


def mask(size: tuple[int, int], count: int = 1) -> Tensor:
    regions = torch.zeros(count, 1, *size, dtype=torch.bool)
    regions[..., 20:40, 30:42] = True
    regions[..., 100:110, 90:120] = True
    return regions


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=str)
def test_every_metric_of_every_protocol_is_a_mean_over_images(protocol) -> None:
    metrics = FusionMetrics(protocol)
    pairs = [(triple(seed, size), mask(size)) for seed, size in enumerate(SIZES)]
    rows = [metrics(*planes, target_mask=regions) for planes, regions in pairs]
    means = metrics.compute()
    assert list(means) == list(protocol.metrics)
    for name, mean in means.items():
        assert mean.dtype == torch.float64
        assert mean.item() == pytest.approx(np.mean([row[name].item() for row in rows]), rel=1e-12)
        low, high = DEFINITIONS[name].bounds
        assert all(low <= row[name] <= high for row in rows), name


def odd_scene() -> list[Tensor]:
    """One triple on which every convention shows: odd sides, flat parts, upright edges, fractions."""
    fused, infrared, visible = (30 + 180 * plane.double() for plane in triple(0, (163, 171)))
    infrared[..., 90:, :60] = 80
    visible[..., 90:, :60] = 40
    visible[..., 20:60, 40:] = infrared[..., 20:60, 40:] = 150 + 60 * (torch.arange(131) // 9 % 2)
    fused[..., 20:60, 40:] = visible[..., 20:60, 40:]
    fused[..., 100:, :50] = torch.arange(50) // 5 % 2 * 3 + 60
    infrared[..., :12, :40] = 254 + torch.arange(40) % 2
    fused[..., :12, :40] = infrared[..., :12, :40] - 40
    return [fused, infrared, visible]


@pytest.mark.parametrize(
    ("protocol", "own_ways"),
    [
        ("strict", set()),
        ("cddfuse", {"MI", "PSNR", "Qabf", "SSIM"}),
        ("tang", {"AG", "MI", "PSNR", "MSE"}),
        ("tang_uint8", {"SD", "SF", "VIF"}),
        ("ivif_zoo", {"EN", "NMI", "PSNR", "MSE", "SSIM", "MS-SSIM", "VIF", "Qabf", "Nabf", "Qcb"}),
        ("vifb", {"AG", "MI", "PSNR", "SSIM", "Qabf", "Qcv", "Qcb"}),
    ],
)
def test_every_option_of_a_protocol_moves_its_score(protocol: str, own_ways: set[str]) -> None:
    chosen, planes = PROTOCOLS[protocol], odd_scene()
    differing = set()
    for name in (name for name in chosen.metrics if not DEFINITIONS[name].needs_mask):
        score, options = DEFINITIONS[name].kernel, chosen.options.get(name, {})
        value = score(*planes, **options).item()
        if value != pytest.approx(score(*planes).item(), rel=1e-7):
            differing.add(name)
        for left_out in options:
            rest = {key: option for key, option in options.items() if key != left_out}
            assert score(*planes, **rest).item() != pytest.approx(value, rel=1e-7), (name, left_out)
    # Metrics that are not named are those of `strict`.
    assert differing == own_ways == set(chosen.options)


def test_there_is_no_option_that_no_protocol_sets() -> None:
    given = {(name, key) for each in PROTOCOLS.values() for name, o in each.options.items() for key in o}
    options = {
        (name, key)
        for name in STRICT.metrics
        for key, parameter in signature(DEFINITIONS[name].kernel).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and key != "target_mask"
    }
    assert options == given


def test_planes_outside_of_the_unit_range_are_refused() -> None:
    planes = triple(0)
    with pytest.raises(ValueError, match=r"EN: infrared has values from .* to 255; expected \[0, 1\]"):
        FusionMetrics(names="EN").update(planes[0], planes[1] / planes[1].max() * 255, planes[2])
    with pytest.raises(ValueError, match="EN: visible holds NaN"):
        FusionMetrics(names="EN").update(planes[0], planes[1], planes[2] * torch.nan)


def test_undefined_images_are_counted_and_not_averaged() -> None:
    metrics = FusionMetrics(names=["PSNR", "SD"])
    fused, infrared, visible = triple(0)
    scores = metrics(fused, infrared, visible)
    assert metrics(fused, fused, fused)["PSNR"].isnan()  # no error: infinitely many decibels
    assert metrics.compute()["PSNR"] == scores["PSNR"]
    assert metrics.undefined() == {"PSNR": 1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_small_images_never_stop_a_run(protocol: str) -> None:
    metrics = FusionMetrics(protocol)
    metrics.update(*(plane[..., :8, :9] for plane in triple(0)))
    metrics.update(*triple(1))
    means = metrics.compute()
    assert all(mean.isfinite() for mean in means.values())
    assert metrics.undefined().get("VIF", 1) == 1
    assert metrics.undefined().get("SSIM", 0) == (protocol in ("ivif_zoo", "vifb"))


def test_metrics_can_be_pickled() -> None:
    metrics = FusionMetrics("cddfuse", ["EN", "SSIM"])
    metrics.update(*triple(0))
    copy = pickle.loads(pickle.dumps(metrics))
    assert copy.compute() == metrics.compute()
    assert str(copy.protocol) == "cddfuse-1"


def test_without_masks_metrics_that_need_them_are_left_out() -> None:
    metrics = FusionMetrics(names=["target-contrast", "local-detail"])
    assert list(metrics(*triple(0))) == ["local-detail"]
    assert list(metrics.compute()) == ["local-detail"]


def test_equal_sums_are_not_merged() -> None:
    names, plane = ["NMI", "SSIM", "MS-SSIM"], triple(0)[0]
    metrics = FusionMetrics(names=names)
    metrics.update(plane, plane, plane)  # each of the three is 2
    metrics.update(*triple(1))
    for name in names:
        alone = FusionMetric(name)
        alone.update(plane, plane, plane)
        assert alone.compute().item() == pytest.approx(2)
        alone.update(*triple(1))
        # Sums of two scores; each score's own sums may be shared out to threads in another order.
        assert metrics.compute()[name].item() == pytest.approx(alone.compute().item(), rel=1e-12)


def test_names_are_resolved_and_refused() -> None:
    assert set(FusionMetrics("cddfuse", ["SSIM", "EN", "SSIM"])) == {"EN", "SSIM"}
    run = RunMetrics("strict", validation=["fast", "VIF"])
    assert "VIF" in run.validation
    assert "Qcv" not in run.validation
    assert set(run.test) == set(STRICT.metrics)
    with pytest.raises(
        ValueError, match=r"metric 'SSM' is unknown to protocol strict-2\. Did you mean 'SSIM'"
    ):
        FusionMetrics("strict", ["SSM"])
    with pytest.raises(ValueError, match="metric 'Qcv' is not in protocol cddfuse-1"):
        FusionMetric("Qcv", "cddfuse")
    with pytest.raises(ValueError, match=r"unknown protocol 'cdfuse'\. Did you mean 'cddfuse'"):
        FusionMetrics("cdfuse")
    with pytest.raises(ValueError, match="no metrics are chosen"):
        FusionMetrics("strict", [])


def test_a_clone_keeps_its_protocol() -> None:
    copy = FusionMetrics("cddfuse", ["EN"]).clone(prefix="test/")
    assert isinstance(copy, FusionMetrics)
    assert list(copy(*triple(0))) == ["test/EN"]
    assert list(FusionMetrics("cddfuse", ["EN"]).clone(postfix="_x")(*triple(0))) == ["EN_x"]
    assert str(copy.protocol) == "cddfuse-1"


def _share(rank: int) -> list[tuple[int, tuple[int, int]]]:
    """Rank 0 has all images but one; every rank has other sizes."""
    images = list(enumerate([*SIZES, (200, 161)]))
    return images[:3] if rank == 0 else images[3:]


def score_share(empty: bool) -> dict[str, float]:
    metrics = FusionMetrics("strict")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an empty rank is warned of
        for seed, size in [] if empty and distributed.get_rank() == 1 else _share(distributed.get_rank()):
            metrics.update(*triple(seed, size), target_mask=mask(size))
        return {name: float(mean) for name, mean in metrics.compute().items()}


@pytest.mark.parametrize("empty", [False, True], ids=["uneven", "empty rank"])
def test_two_ranks_give_the_value_of_one(ranks: Ranks, empty: bool) -> None:
    single = FusionMetrics("strict")
    for seed, size in _share(0) + ([] if empty else _share(1)):
        single.update(*triple(seed, size), target_mask=mask(size))
    expected = {name: float(mean) for name, mean in single.compute().items()}
    for values in ranks.run(score_share, empty):
        assert list(values) == list(expected)
        for name, value in values.items():
            # Four numbers are added in another order.
            assert value == pytest.approx(expected[name], rel=1e-12), name


def test_a_metric_in_any_collection(tmp_path: Path) -> None:
    metrics = MetricCollection({"qabf": FusionMetric("Qabf"), "en": FusionMetric("EN", "ivif_zoo")})
    metrics.update(*triple(0))
    torch.save(metrics.state_dict(), tmp_path / "state.pt")
    assert set(metrics.compute()) == {"qabf", "en"}
    assert metrics["qabf"].higher_is_better
