"""LPIPS as a metric; its arithmetic is checked in tests/ops/test_lpips.py."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from clipfuse.metrics import FusionMetrics, RunMetrics, Scorer, lpips
from clipfuse.metrics.protocols import PROTOCOLS, STRICT
from clipfuse.metrics.verdict import VERDICTS
from clipfuse.ops.lpips import Lpips
from clipfuse.ops.vgg import _layers


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        state = _layers("alexnet").state_dict()
    torch.save({f"features.{name}": value for name, value in state.items()}, path)
    return str(path)


def planes(count: int = 2, side: int = 40) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return list(torch.rand(3, count, 1, side, side, generator=generator))


def test_is_the_mean_of_both_distances_on_eight_bits(weights: str) -> None:
    images = planes()
    fused, *sources = [(255 * each).round() / 255 for each in images]
    judge = Lpips(weights, "alexnet")
    expected = sum(judge(fused, source) for source in sources) / 2
    found = lpips(*images, weights=weights)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected.double(), rtol=1e-5, atol=1e-7)  # float32 sums
    assert lpips(images[1], images[1], images[1], weights=weights).tolist() == [0, 0]


def test_is_in_the_set_full_where_there_are_weights_and_nowhere_else(weights: str) -> None:
    assert "LPIPS" not in STRICT.metrics
    assert "LPIPS" not in RunMetrics().test.names
    run = RunMetrics(lpips_weights=weights)
    assert run.test.names == [*STRICT.metrics, "LPIPS"]
    assert "LPIPS" not in run.validation.names
    assert str(run.test.protocol) == str(STRICT)
    metrics = FusionMetrics(STRICT.with_lpips(weights), ["LPIPS"])
    metrics.update(*planes())
    expected = float(lpips(*planes(), weights=weights).mean())
    assert metrics.compute()["LPIPS"].item() == pytest.approx(expected, rel=1e-12)
    assert metrics.protocol.definition("LPIPS").higher_is_better is False
    small = Scorer(STRICT.with_lpips(weights), "LPIPS").score_all({"": planes(1, 31)[0]}, *planes(1, 31)[1:])
    assert small[""]["LPIPS"] != small[""]["LPIPS"]  # not defined below 32 px


def test_the_table_names_the_network(weights: str) -> None:
    scorer = Scorer(STRICT.with_lpips(weights), ["EN", "LPIPS"])
    text = scorer.table({"ours": {"EN": [7.0], "LPIPS": [0.25]}})
    assert "LPIPS ↓  0.250" in text
    assert "LPIPS by alexnet, with other weights than the published ones" in text


def test_errors_name_what_to_give(weights: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'LPIPS' needs a file .* metrics\.lpips_weights=FILE"):
        Scorer("strict", ["LPIPS"])
    with pytest.raises(ValueError, match=r"LPIPS: needs a file with the weights"):
        lpips(*planes())
    with pytest.raises(ValueError, match="protocol vifb-2 scores each colour channel"):
        PROTOCOLS["vifb"].with_lpips(weights)
    with pytest.raises(ValueError, match="no file of vgg16 or alexnet's weights"):
        RunMetrics(lpips_weights=str(tmp_path / "none.pth"))


def test_no_verdict_changes_by_it() -> None:
    for verdict in VERDICTS.values():
        assert verdict.families([*STRICT.metrics, "LPIPS"]) == verdict.families(STRICT.metrics)
