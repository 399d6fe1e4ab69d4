"""The table's numbers against plain arithmetic on the scores that were written."""

from collections.abc import Callable, Sequence
from math import nan
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
from scipy import stats

from clipfuse.compare.collect import find_runs
from clipfuse.compare.compute import build_table
from clipfuse.compare.table import Table
from clipfuse.compare.variants import group
from clipfuse.metrics.protocols import STRICT

Factory = Callable[..., Path]
ONE = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
TWO = [2.0, 2.5, 2.0, 5.0, 5.5, 8.0]
THREE = [0.5, 2.6, 1.0, 4.5, 5.6, 6.1]


def table(
    root: Path, metrics: Sequence[str] = ("SSIM",), baseline: str = "pixel", **options: object
) -> Table:
    return build_table(group(find_runs([root])), STRICT, metrics, baseline, **options)  # type: ignore[arg-type]


def test_means_deviations_places_and_tests(sweep: Factory) -> None:
    sweep(seed=0, scores={"SSIM": ONE, "MSE": ONE})
    sweep(seed=1, scores={"SSIM": TWO, "MSE": TWO})
    root = sweep("ldfusion", seed=0, scores={"SSIM": THREE, "MSE": THREE})
    built = table(root, ("MSE", "SSIM"))
    rows = {row.name: row for row in built.rows}
    pixel, other = rows["pixel"].cells["SSIM"], rows["ldfusion"].cells["SSIM"]
    assert pixel.mean == pytest.approx(fmean(ONE + TWO))
    assert pixel.std == pytest.approx(stdev([fmean(ONE), fmean(TWO)]))
    assert other.std is None
    assert (pixel.place, other.place) == (1, 2)
    assert [rows[name].cells["MSE"].place for name in ("pixel", "ldfusion")] == [2, 1]  # less is better
    assert pixel.against is None
    assert other.against is not None
    paired = [fmean(pair) for pair in zip(ONE, TWO, strict=True)]
    p = stats.wilcoxon(THREE, paired).pvalue
    assert other.against.p == pytest.approx(min(1, 2 * p))  # Holm over the two metrics, both the same p
    assert other.against.mean == pytest.approx(fmean(THREE) - fmean(paired))
    assert other.against.low < other.against.mean < other.against.high
    assert other.against.effect < 0 < rows["ldfusion"].cells["MSE"].against.effect  # type: ignore[union-attr]
    assert built.tests == 2
    assert rows["pixel"].seeds == (0, 1)
    assert pixel.low < pixel.mean < pixel.high


def test_ranks_are_means_over_scenes_and_metrics(sweep: Factory) -> None:
    for loss, scores in {"pixel": ONE, "ldfusion": TWO, "clip_ratio": THREE}.items():
        root = sweep(loss, scores={"SSIM": scores, "MSE": scores[::-1]}, scenes=list("aabbcd"))
    built = table(root, ("SSIM", "MSE"))

    def by_scene(scores: Sequence[float]) -> list[float]:
        return [fmean(scores[:2]), fmean(scores[2:4]), scores[4], scores[5]]

    columns = np.array([by_scene(scores) for scores in (ONE, TWO, THREE)])
    reverse = np.array([by_scene(scores[::-1]) for scores in (ONE, TWO, THREE)])
    up = stats.rankdata(-columns, axis=0).mean(axis=1)
    down = stats.rankdata(reverse, axis=0).mean(axis=1)
    expected = dict(zip(("pixel", "ldfusion", "clip_ratio"), (up + down) / 2, strict=True))
    assert {row.name: row.rank for row in built.rows} == pytest.approx(expected)
    assert [row.rank for row in built.rows] == sorted(row.rank or 0 for row in built.rows)
    assert built.rows[0].cells["SSIM"].rank in up
    assert built.scenes == 4
    assert sum(row.first or 0 for row in built.rows) == pytest.approx(1)
    assert built.critical_difference is not None


def test_a_clear_winner_is_first_in_every_resample(sweep: Factory) -> None:
    sweep()
    sweep("ldfusion", level=1.0)
    root = sweep("clip_ratio", level=0.5)
    built = table(root, ("SSIM", "VIF", "MSE"))
    assert [(row.name, row.rank, row.first) for row in built.rows] == [
        ("ldfusion", 1, 1),
        ("clip_ratio", 2, 0),
        ("pixel", 3, 0),
    ]


def test_undefined_scores_are_left_out_for_all_and_counted(sweep: Factory) -> None:
    sweep(scores={"SSIM": [nan, *ONE[1:]]})
    root = sweep("ldfusion", scores={"SSIM": [*TWO[:5], nan]})
    built = table(root)
    cells = {row.name: row.cells["SSIM"] for row in built.rows}
    assert cells["pixel"].mean == fmean(ONE[1:5])
    assert cells["ldfusion"].mean == fmean(TWO[1:5])
    assert (built.columns[0].images, built.columns[0].left_out) == (4, 2)


def test_a_variant_without_a_score_is_last_by_that_metric(sweep: Factory) -> None:
    sweep(scores={"SSIM": ONE})
    sweep("clip_ratio", scores={"SSIM": [nan] * 6})
    root = sweep("ldfusion", scores={"SSIM": TWO})
    built = table(root)
    rows = {row.name: row for row in built.rows}
    assert rows["clip_ratio"].cells == {}
    assert rows["clip_ratio"].rank == 3
    assert rows["pixel"].cells["SSIM"].mean == fmean(ONE)
    assert built.columns[0].left_out == 0


def test_a_metric_that_nobody_defines(sweep: Factory) -> None:
    root = sweep(scores={"SSIM": [nan] * 6, "VIF": ONE})
    sweep("ldfusion", scores={"SSIM": [nan] * 6, "VIF": TWO})
    built = table(root, ("SSIM", "VIF"))
    assert all(list(row.cells) == ["VIF"] for row in built.rows)
    assert built.columns[0].images == 0


def test_ties_share_place_and_rank(sweep: Factory) -> None:
    root = sweep(scores={"SSIM": ONE})
    sweep("ldfusion", scores={"SSIM": ONE})
    built = table(root)
    assert [(row.rank, row.first, row.cells["SSIM"].place) for row in built.rows] == [(1.5, 0.5, 1)] * 2
    against = next(row.cells["SSIM"].against for row in built.rows if row.name == "ldfusion")
    assert against is not None
    assert (against.mean, against.low, against.high, against.p, against.effect) == (0, 0, 0, 1, 0)


def test_one_loss_alone(sweep: Factory) -> None:
    built = table(sweep())
    (row,) = built.rows
    assert (row.rank, row.first, built.critical_difference, built.tests) == (None, None, None, 0)
    assert row.cells["SSIM"].place is None


def test_only_shared_images_count(sweep: Factory) -> None:
    sweep(scores={"SSIM": ONE})
    root = sweep("ldfusion", scores={"SSIM": TWO[:3]}, images=[f"test-{i:06d}" for i in range(3)])
    built = table(root)
    assert len(built.images) == 3
    assert {row.name: row.cells["SSIM"].mean for row in built.rows} == {
        "pixel": fmean(ONE[:3]),
        "ldfusion": fmean(TWO[:3]),
    }


def test_trivial_rows_have_scores_and_no_rank(sweep: Factory) -> None:
    root = sweep(scores={"SSIM": ONE})
    sweep("ldfusion", scores={"SSIM": TWO})
    scores = {"SSIM": {f"test-{i:06d}": value for i, value in enumerate(THREE)}}
    built = table(root, trivial={"baseline:maximum": scores, "baseline:visible": {}})
    assert [(row.name, row.trivial, row.rank) for row in built.rows[2:]] == [
        ("maximum", True, None),
        ("visible", True, None),
    ]
    cell = built.rows[2].cells["SSIM"]
    assert cell.mean == pytest.approx(fmean(THREE), rel=1e-14)
    assert cell.low < cell.mean < cell.high
    assert built.rows[3].cells == {}


def test_cost(sweep: Factory) -> None:
    sweep()
    sweep(
        seed=1,
        status={
            "fit": {"seconds": 60.0, "updates": 10, "samples": 40, "peak_memory_mb": 1500.0, "device": "cpu"}
        },
    )
    root = sweep("ldfusion", status={"fit": None})
    rows = {row.name: row for row in table(root).rows}
    pixel = rows["pixel"]
    assert (pixel.seconds, pixel.samples_per_second, pixel.memory_mb, pixel.device) == (40, 1, 1500, "cpu")
    assert rows["ldfusion"].seconds is None


def test_the_same_runs_give_the_same_numbers(sweep: Factory) -> None:
    root = sweep()
    sweep("ldfusion", seed=1)
    assert table(root) == table(root)
