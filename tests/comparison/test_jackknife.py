"""Pseudo-values: of a mean they are the values; of a ratio by hand; and what is estimated from them."""

from math import inf, isnan

import numpy as np
import pytest
from experiments.verdict.jackknife import World, crossed, missed
from scipy import stats

from clipfuse.comparison.jackknife import Crossed, cross, pseudo_values


def left_out(values: np.ndarray) -> np.ndarray:
    """The mean of all scenes, then without each: (..., scenes) -> (..., 1 + scenes)."""
    total, count = values.sum(-1, keepdims=True), values.shape[-1]
    return np.concatenate([total / count, (total - values) / (count - 1)], axis=-1)


def test_of_a_mean_they_are_the_values_themselves() -> None:
    values = np.random.default_rng(0).normal(50, 9, (3, 2, 7))
    # Differences of means times 7: a few units in the last place of 50 x 7.
    np.testing.assert_allclose(pseudo_values(left_out(values)), values, atol=1e-11)


def test_of_a_ratio_they_are_moved_to_have_it_as_their_mean() -> None:
    both, union = np.array([9, 1, 4.0]), np.array([10, 5, 5.0])
    whole = 100 * both.sum() / union.sum()
    without = 100 * (both.sum() - both) / (union.sum() - union)
    plain = 3 * whole - 2 * without
    found = pseudo_values(np.array([whole, *without]))
    assert found.mean() == pytest.approx(whole, abs=1e-12)
    assert np.ptp(found - plain) < 1e-12  # moved by one number
    assert found.var(ddof=1) / 3 == pytest.approx(
        2 / 3 * np.square(without - without.mean()).sum(), abs=1e-11
    )


def test_a_mean_over_scenes_has_the_interval_of_students_t() -> None:
    values = np.random.default_rng(1).normal(50, 9, (1, 1, 8))
    (found,) = cross([[[{"score": each} for each in run] for run in left_out(values)]], 1).values()
    cell = found.cell(0)
    assert cell is not None
    low, high = stats.t.interval(0.95, 7, values.mean(), stats.sem(values.ravel()))
    assert (cell.mean, cell.low, cell.high) == pytest.approx((values.mean(), low, high), abs=1e-9)
    assert cell.std is None


def test_an_interval_wider_than_all_scores_is_none() -> None:
    """Two scenes give one degree of freedom: a difference of 40 an interval of 508."""
    (found,) = cross([[[{"score": left_out(np.array([30.0, 70.0]))}]]], 1).values()
    cell = found.cell(0)
    assert cell is not None
    assert (cell.mean, cell.low, cell.high) == (pytest.approx(50), -inf, inf)


def one(*rows: np.ndarray, losses: int = 2) -> Crossed:
    """Cross rows of values, (runs, task seeds, scenes) each."""
    left = [[[{"score": each} for each in run] for run in left_out(row)] for row in rows]
    return cross(left, losses)["score"]


def test_task_seeds_are_averaged_and_what_they_do_to_all_cancels() -> None:
    generator = np.random.default_rng(2)
    a, b = (generator.normal(50, 1, (4, 2, 6)) for _ in range(2))
    plain = generator.normal(48, 1, (1, 2, 6))
    common = np.array([5.0, -5.0])[:, None]
    found, moved = one(a, b, plain), one(a + common, b + common, plain + common)
    for other in (1, 2):
        gap, same = found.gap(0, other), moved.gap(0, other)
        assert gap is not None
        assert same is not None
        assert (gap.value, *gap.interval()) == pytest.approx((same.value, *same.interval()), abs=1e-9)
    assert found.gap(0, 1).value == pytest.approx(a.mean() - b.mean(), abs=1e-9)  # type: ignore[union-attr]
    assert moved.by_seed(0) == pytest.approx((a + common).mean(axis=(0, 2)), abs=1e-9)
    assert np.diff(moved.by_seed(0)) < -9


def test_scenes_that_change_nothing_do_not_count() -> None:
    counts = np.random.default_rng(3).uniform(1, 9, (2, 3, 1, 4))
    union = counts[1] + counts[0]
    both = np.concatenate([counts[0], np.zeros((3, 1, 5))], axis=-1)
    union = np.concatenate([union, np.zeros((3, 1, 5))], axis=-1)
    ratio = lambda inside: both[..., inside].sum(-1) / union[..., inside].sum(-1)  # noqa: E731
    scenes = np.arange(9)
    left = np.stack([ratio(scenes >= 0), *(ratio(scenes != each) for each in scenes)], axis=-1)
    found = cross([[[{"score": each} for each in run] for run in left]], 1)["score"]
    assert found.present.tolist() == [True] * 4 + [False] * 5
    assert found.scenes == 4
    row = found.by_scene(0)
    assert row is not None
    assert row.shape == (3, 4)


def test_what_hangs_on_one_scene_has_no_interval() -> None:
    alone = {"score": np.array([40.0, np.nan, 40, 40])}
    other = {"score": np.array([50.0, np.nan, 50, 50])}
    nowhere = {"score": np.full(4, np.nan)}
    found = cross([[[alone]] * 2, [[other]] * 2, [[nowhere]]], 2)["score"]
    cell = found.cell(0)
    assert cell is not None
    assert (cell.mean, cell.low, cell.high) == (40, -inf, inf)
    gap = found.gap(1, 0)
    assert gap is not None
    assert gap.value == 10
    assert isnan(gap.degrees)
    assert found.cell(2) is None
    assert found.gap(0, 2) is None
    assert found.by_seed(2) == []


def test_one_task_seed_of_a_plain_source_gives_no_interval() -> None:
    generator = np.random.default_rng(4)
    found = one(generator.normal(50, 1, (4, 1, 6)), generator.normal(40, 1, (1, 1, 6)), losses=1)
    gap = found.gap(0, 1)
    assert gap is not None
    assert gap.value > 8
    assert isnan(gap.degrees)


def test_task_seeds_that_favour_a_loss_are_found() -> None:
    generator = np.random.default_rng(5)
    a, b = (generator.normal(50, 1, (5, 2, 6)) for _ in range(2))
    assert one(a, b).favoured > 0.05
    # The F-test of two groups with two levels is the t-test of the differences between the levels.
    steps = [each.mean(axis=2) @ [1, -1] for each in (a, b)]
    assert one(a, b).favoured == pytest.approx(stats.ttest_ind(*steps).pvalue, abs=1e-9)
    assert one(a + np.array([1.0, -1.0])[:, None], b).favoured < 0.01
    assert isnan(one(a[:, :1], b[:, :1]).favoured)
    assert isnan(one(a[:1], b[:1]).favoured)


def test_intervals_miss_in_about_one_of_twenty_where_nothing_differs() -> None:
    """Missed are 4.8 % and 2.8 % here, with a standard error of 1.4 %; the long one: experiments/verdict."""
    world = World(seeds=4, scenes=12, rare=12)
    shares = missed(world, ("mIoU",), 250)["mIoU"]
    assert all(0.008 <= share <= 0.09 for share in shares)
    # Of one run each, as in tests over images, intervals over scenes alone miss many times as often.
    wrong = 0
    for draw in range(100):
        found = crossed(World(seeds=1, scenes=40, rare=40, run=1.0, own=0.1), np.random.default_rng(draw))
        one, other = (found["mIoU"].by_scene(row) for row in (0, 1))
        assert one is not None
        assert other is not None
        wrong += stats.ttest_1samp((one - other)[0], 0).pvalue < 0.05
    assert wrong > 15
