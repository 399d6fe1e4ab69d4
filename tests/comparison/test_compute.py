"""The table's numbers against plain arithmetic on the scores that were written."""

from collections.abc import Callable, Sequence
from math import nan
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest

from clipfuse.comparison import statistics
from clipfuse.comparison.collect import find_runs
from clipfuse.comparison.compute import build_table, without_repeats
from clipfuse.comparison.table import Table
from clipfuse.comparison.variants import group
from clipfuse.comparison.verdict import verdict
from clipfuse.metrics.protocols import STRICT
from clipfuse.metrics.verdict import VerdictSet

Factory = Callable[..., Path]
ONE = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
TWO = [2.0, 2.5, 2.0, 5.0, 5.5, 8.0]
THREE = [0.5, 2.6, 1.0, 4.5, 5.6, 6.1]


def table(
    root: Path, metrics: Sequence[str] = ("SSIM",), reference: str = "pixel", **options: object
) -> Table:
    return build_table(group(find_runs([root])), STRICT, metrics, reference, **options)  # type: ignore[arg-type]


def test_means_deviations_places_and_tests(sweep: Factory) -> None:
    for seed, shift in enumerate((0.0, 0.1, -0.3)):
        sweep(seed=seed, scores={"SSIM": [x + shift for x in ONE], "MSE": [x + shift for x in ONE]})
        root = sweep("ldfusion", seed=seed, scores={"SSIM": [x - shift for x in TWO], "MSE": TWO})
    built = table(root, ("MSE", "SSIM"))
    rows = {row.name: row for row in built.rows}
    pixel, other = rows["pixel"].cells["SSIM"], rows["ldfusion"].cells["SSIM"]
    assert pixel.mean == pytest.approx(fmean(ONE) + fmean((0, 0.1, -0.3)))
    assert pixel.std == pytest.approx(stdev([0, 0.1, -0.3]))
    assert (pixel.place, other.place) == (2, 1)
    assert [rows[name].cells["MSE"].place for name in ("pixel", "ldfusion")] == [1, 2]  # less is better
    assert built.against == [("ldfusion", "pixel")]
    found = built.differences["ldfusion", "pixel"]
    shares = np.full(6, 1 / 6)
    a = np.array([[x - shift for x in TWO] for shift in (0.0, 0.1, -0.3)])
    b = np.array([[x + shift for x in ONE] for shift in (0.0, 0.1, -0.3)])
    expected = statistics.crossed_difference(
        statistics.spread(a, shares), statistics.spread(b, shares), shares
    )
    assert found["SSIM"].estimate.value == pytest.approx(expected.value)
    assert found["SSIM"].estimate.p == pytest.approx(expected.p)
    p_values = [found[name].estimate.p for name in ("MSE", "SSIM")]
    assert [found[name].holm for name in ("MSE", "SSIM")] == pytest.approx(statistics.holm(p_values))
    assert [found[name].discovery for name in ("MSE", "SSIM")] == pytest.approx(
        statistics.benjamini_hochberg(p_values)
    )
    assert found["SSIM"].median == pytest.approx(np.median(a.mean(axis=0) - b.mean(axis=0)))
    assert found["SSIM"].detectable == pytest.approx(statistics.detectable(expected, 0.05 / 2))
    assert built.tests == 2
    assert rows["pixel"].seeds == (0, 1, 2)
    low, high = statistics.crossed_mean(statistics.spread(b, shares), shares).interval()
    assert (pixel.low, pixel.high) == pytest.approx((low, high))


def test_frames_are_means_over_their_scene(sweep: Factory) -> None:
    """The mean is over images; what varies is judged between scenes."""
    for seed in range(3):
        sweep(seed=seed, scores={"SSIM": [x + seed for x in ONE]}, scenes=list("aabbcc"))
        root = sweep("ldfusion", seed=seed, scores={"SSIM": [x + seed for x in TWO]}, scenes=list("aabbcc"))
    built = table(root)
    ones = np.array([[1.5, 3.5, 5.5]])
    twos = np.array([[2.25, 3.5, 6.75]])
    shares = np.full(3, 1 / 3)
    seeds = np.array([[0.0], [1], [2]])
    expected = statistics.crossed_difference(
        statistics.spread(twos + seeds, shares), statistics.spread(ones + seeds, shares), shares
    )
    found = built.differences["ldfusion", "pixel"]["SSIM"].estimate
    assert (found.value, found.p) == pytest.approx((expected.value, expected.p))
    assert (built.scenes, built.effective_scenes) == (3, pytest.approx(3))


def test_ranks_are_those_of_single_trainings(sweep: Factory) -> None:
    """A slow twin: every run against every run, scene by scene, metric by metric, family by family."""
    generator = np.random.default_rng(3)
    names = ("pixel", "ldfusion", "clip_ratio")
    metrics = ("SSIM", "VIF", "MSE")
    scores = {
        (loss, seed): {metric: generator.normal(size=6).tolist() for metric in metrics}
        for loss in names
        for seed in (0, 1)
    }
    for (loss, seed), each in scores.items():
        root = sweep(loss, seed=seed, scores=each, scenes=list("aabbcd"))
    chosen = VerdictSet("own", 1, "", {"detail": ("SSIM", "VIF"), "error": ("MSE",), "absent": ("EN",)})
    built = table(root, ("SSIM",), verdict_set=chosen)
    assert built.families == {"detail": ("SSIM", "VIF"), "error": ("MSE",)}
    parts = {"a": (0, 1), "b": (2, 3), "c": (4,), "d": (5,)}
    ranks: dict[str, list[float]] = {}
    for (loss, _), own in scores.items():
        total = 0.0
        for images in parts.values():
            by_metric = {}
            for metric in metrics:
                sign = -1 if metric == "MSE" else 1
                mine = sign * fmean(own[metric][i] for i in images)
                others = [sign * fmean(each[metric][i] for i in images) for each in scores.values()]
                by_metric[metric] = 1 + sum(other > mine for other in others)
            total += len(images) / 6 * ((by_metric["SSIM"] + by_metric["VIF"]) / 2 + by_metric["MSE"]) / 2
        ranks.setdefault(loss, []).append(total)
    assert {row.name: row.rank for row in built.rows} == pytest.approx(
        {loss: fmean(each) for loss, each in ranks.items()}
    )
    assert [row.rank for row in built.rows] == sorted(row.rank or 0 for row in built.rows)
    assert built.runs == 6
    assert built.better is not None
    assert built.better + built.better.T == pytest.approx(np.ones((3, 3)))
    # A loss's rank is half, and how many trainings are better than its own on average.
    assert [row.rank for row in built.rows] == pytest.approx(0.5 + 2 * built.better.sum(axis=0))
    assert sum(row.first or 0 for row in built.rows) == pytest.approx(1)
    assert sum(row.stable or 0 for row in built.rows) == pytest.approx(1)


def test_a_metric_of_some_scenes_votes_there(sweep: Factory) -> None:
    """Where a family has no score in a scene, the others decide that scene."""
    sweep(scores={"SSIM": ONE, "target-contrast": [5.0, *[nan] * 5]})
    root = sweep("ldfusion", scores={"SSIM": TWO, "target-contrast": [1.0, *[nan] * 5]})
    chosen = VerdictSet("own", 1, "", {"structure": ("SSIM",), "targets": ("target-contrast",)})
    built = table(root, verdict_set=chosen)
    # SSIM: ldfusion before in scenes 0, 1, 3, 4, 5; pixel in 2. Scene 0 is divided between the families.
    assert {row.name: row.rank for row in built.rows} == pytest.approx(
        {"ldfusion": (1.5 + 1 + 2 + 1 + 1 + 1) / 6, "pixel": (1.5 + 2 + 1 + 2 + 2 + 2) / 6}
    )


def test_a_trivial_fusion_stands_among_the_trainings(sweep: Factory) -> None:
    sweep(scores={"SSIM": ONE})
    root = sweep("ldfusion", scores={"SSIM": [x + 1 for x in ONE]})
    between = {"SSIM": {f"test-{i:06d}": x + 0.5 for i, x in enumerate(ONE)}}
    above = {"SSIM": {f"test-{i:06d}": x + 9 for i, x in enumerate(ONE)}}
    built = table(root, trivial={"trivial:average": between, "trivial:infrared": above})
    alone = table(root)
    assert {row.name: row.rank for row in built.rows} == {
        "ldfusion": 1,
        "pixel": 2,
        "average": 1.5,
        "infrared": 0.5,
    }
    assert [row.rank for row in built.losses] == [row.rank for row in alone.losses]


def test_a_clear_winner_is_first_in_every_resample(sweep: Factory) -> None:
    for seed in (0, 1):
        sweep(seed=seed)
        sweep("ldfusion", seed=seed, level=1.0)
        root = sweep("clip_ratio", seed=seed, level=0.5)
    built = table(root, ("SSIM", "VIF", "MSE"))
    assert [row.name for row in built.rows] == ["ldfusion", "clip_ratio", "pixel"]
    assert [row.rank for row in built.rows] == pytest.approx([1.5, 3.5, 5.5])
    assert [(row.first, row.stable) for row in built.rows] == [(1, 1), (0, 0), (0, 0)]


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
    for seed in (0, 1):
        root = sweep(seed=seed, scores={"SSIM": [x + seed for x in ONE]})
        sweep("ldfusion", seed=seed, scores={"SSIM": [x + seed for x in ONE]})
    built = table(root)
    assert [(row.rank, row.stable, row.cells["SSIM"].place) for row in built.rows] == [(2.5, 0.5, 1)] * 2
    # Seeds are drawn for each loss apart: six standard errors of 2,000 draws.
    assert [row.first for row in built.rows] == pytest.approx([0.5, 0.5], abs=6 * 0.5 / 2000**0.5)
    found = built.differences["ldfusion", "pixel"]["SSIM"]
    assert (found.estimate.value, found.estimate.p, found.better, found.equal) == (0, 1, 0, True)
    assert [{*pair} for pair in built.twins] == [{"ldfusion", "pixel"}]
    assert [rival.beaten for rival in built.rivals] == [False]


def test_a_training_that_repeats_another_does_not_count(sweep: Factory) -> None:
    sweep(seed=0, scores={"SSIM": ONE})
    sweep(seed=1, scores={"SSIM": ONE})
    root = sweep(seed=2, scores={"SSIM": TWO})
    kept, notes = without_repeats(group(find_runs([root])))
    assert [run.seed for run in kept[0].runs] == [0, 2]
    assert len(notes) == 1
    assert notes[0].startswith(f"Left out: {root / '1'}: all its scores are those of {root / '0'}")
    assert notes[0].endswith("so that seeds 0 and 1 of 'pixel' are one training.")


def test_one_training_each_is_not_tested(sweep: Factory) -> None:
    sweep()
    built = table(sweep("ldfusion", level=5.0), ("SSIM", "MSE"))
    found = built.differences["ldfusion", "pixel"].values()
    assert built.tests == 0
    assert [row.first for row in built.rows] == [None, None]
    assert [(each.tested, each.word, each.better) for each in found] == [(False, "", 0)] * 2
    assert [column.detectable for column in built.columns] == [None, None]
    assert not built.rivals[0].beaten
    assert all(cell.std is None and cell.low < cell.high for row in built.rows for cell in row.cells.values())


def test_each_against_each(sweep: Factory) -> None:
    for seed in (0, 1):
        for loss in ("pixel", "ldfusion", "clip_ratio"):
            root = sweep(loss, seed=seed)
    built = table(root, ("SSIM", "MSE"), reference="all")
    assert len(built.against) == 3
    assert built.tests == 6
    assert {frozenset(pair) for pair in built.against} == {
        frozenset(pair)
        for pair in (("pixel", "ldfusion"), ("pixel", "clip_ratio"), ("ldfusion", "clip_ratio"))
    }


def test_one_loss_alone(sweep: Factory) -> None:
    built = table(sweep())
    (row,) = built.rows
    assert (row.rank, row.first, built.rivals, built.better, built.tests) == (None, None, [], None, 0)
    assert row.cells["SSIM"].place is None


def test_only_shared_images_count(sweep: Factory) -> None:
    sweep(scores={"SSIM": ONE})
    few = {"scores": {"SSIM": TWO[:3]}, "images": [f"test-{i:06d}" for i in range(3)]}
    root = sweep("ldfusion", **few, options={"split_sha256": "another"})
    built = table(root)
    assert len(built.images) == 3
    assert {row.name: row.cells["SSIM"].mean for row in built.rows} == {
        "pixel": fmean(ONE[:3]),
        "ldfusion": fmean(TWO[:3]),
    }


def test_trivial_rows_have_scores(sweep: Factory) -> None:
    root = sweep(scores={"SSIM": ONE})
    sweep("ldfusion", scores={"SSIM": TWO})
    scores = {"SSIM": {f"test-{i:06d}": value for i, value in enumerate(THREE)}}
    built = table(root, trivial={"trivial:maximum": scores, "trivial:visible": {}})
    assert [(row.name, row.trivial, row.rank is None) for row in built.rows[2:]] == [
        ("maximum", True, False),
        ("visible", True, True),
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
    one, other = table(root), table(root)
    assert one.rows == other.rows
    assert np.array_equal(one.better, other.better)  # type: ignore[arg-type]


def test_many_images_up_and_few_far_down_is_not_better(sweep: Factory) -> None:
    """62 images + 0.05 and 13 - 0.6, five seeds: the mean is lower, so no rank of images makes it better."""
    images = [f"image-{place:02d}" for place in range(75)]
    for seed in range(5):
        base = np.random.default_rng(seed).normal(0, 0.001, 75)
        moved = base + np.where(np.arange(75) < 62, 0.05, -0.6)
        sweep(seed=seed, scores={"SSIM": base.tolist()}, images=images)
        root = sweep("ldfusion", seed=seed, scores={"SSIM": moved.tolist()}, images=images)
    found = table(root).differences["ldfusion", "pixel"]["SSIM"]
    assert found.estimate.value == pytest.approx(-0.0627, abs=1e-3)
    assert found.median == pytest.approx(0.05, abs=1e-3)
    assert found.divided
    assert (found.word, found.better) == ("", 0)


def test_a_loss_that_is_better_everywhere_wins(sweep: Factory) -> None:
    images = [f"image-{place:02d}" for place in range(12)]
    for seed in range(4):
        generator = np.random.default_rng(seed)
        for loss, level in (("pixel", 0.0), ("ldfusion", 1.0), ("clip_ratio", 0.5)):
            scores = level + 0.1 * generator.normal() + 0.1 * generator.normal(size=12)
            root = sweep(loss, seed=seed, scores={"SSIM": scores.tolist()}, images=images)
    built = table(root)
    assert [(rival.name, rival.estimate.value > 0, rival.beaten) for rival in built.rivals] == [
        ("clip_ratio", True, True),
        ("pixel", True, True),
    ]
    assert verdict(built)[0].startswith(
        "'ldfusion' wins: its trainings rank before those of every other loss"
    )


def test_seeds_are_pooled_where_asked(sweep: Factory) -> None:
    for seed in range(3):
        for loss, spread in (("pixel", 0.1), ("ldfusion", 1.0), ("clip_ratio", 3.0)):
            shift = spread * np.random.default_rng([seed, *map(ord, loss)]).normal()
            root = sweep(loss, seed=seed, scores={"SSIM": [x + shift for x in ONE]})
    apart = table(root).differences["ldfusion", "pixel"]["SSIM"].estimate
    together = table(root, pooled=True).differences["ldfusion", "pixel"]["SSIM"].estimate
    assert together.value == apart.value
    assert together.error > apart.error  # the third loss's seeds count as well
    assert together.degrees == pytest.approx(6)
