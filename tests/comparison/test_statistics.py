"""Each statistic against scipy, a hand-worked example or an obvious slow twin."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import stdtr

from clipfuse.comparison import statistics
from clipfuse.comparison.statistics import Array, Estimate, Spread, spread

EQUAL = np.full(8, 1 / 8)
UNEQUAL = np.array([18, 3, 2, 2, 2, 2, 1, 1]) / 31  # the scenes of RoadScene's test part


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(7)


def draw(
    generator: np.random.Generator, runs: int, scenes: int, seeds: float, own: float, rest: float
) -> Array:
    """Scores (runs, scenes): the seeds', the loss's own in each scene, and what is left."""
    return (
        generator.normal(0, seeds, (runs, 1))
        + generator.normal(0, own, (1, scenes))
        + generator.normal(0, rest, (runs, scenes))
    )


def test_membership() -> None:
    expected = [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert statistics.membership(["x", "y", "x", "z"]).tolist() == expected


def test_effective_scenes() -> None:
    assert statistics.effective_scenes(EQUAL) == 8
    assert statistics.effective_scenes(UNEQUAL) == pytest.approx(31**2 / (18**2 + 9 + 16 + 2))
    assert statistics.effective_scenes(np.array([1.0])) == 1


def slow_difference(a: Array, b: Array, shares: Array) -> tuple[float, float, float]:
    """Value, variance and degrees of freedom, written out sum by sum."""
    scenes, parts, below, residual, fewest = len(shares), [], 0.0, 0.0, min(len(a), len(b)) - 1
    for x in (a, b):
        means = [math.fsum(w * y for w, y in zip(shares, row, strict=True)) for row in x]
        centre = math.fsum(means) / len(means)
        part = math.fsum((m - centre) ** 2 for m in means) / (len(means) - 1) / len(means)
        parts.append(part)
        below += part**2 / (len(means) - 1)
        rest = 0.0
        for i in range(len(x)):
            for s in range(scenes):
                rest += (x[i, s] - x[i].mean() - x[:, s].mean() + x.mean()) ** 2
        rest *= math.fsum(w * w for w in shares) / ((len(x) - 1) * (scenes - 1))
        residual += rest / len(x)
    apart = [a[:, s].mean() - b[:, s].mean() for s in range(scenes)]
    centre = math.fsum(apart) / scenes
    whole = math.fsum((d - centre) ** 2 for d in apart) / (scenes - 1) * math.fsum(w * w for w in shares)
    value = math.fsum(w * d for w, d in zip(shares, apart, strict=True))
    total = sum(parts) + max(0.0, whole - residual)
    smaller = sum(parts) ** 2 / fewest
    if whole > residual:
        below += whole**2 / (scenes - 1)
        smaller += whole**2 / (scenes - 1)
    satterthwaite, cautious = total**2 / below, total**2 / smaller
    return value, total, math.exp((2 * math.log(satterthwaite) + math.log(cautious)) / 3)


@pytest.mark.parametrize("shares", [EQUAL, UNEQUAL])
@pytest.mark.parametrize("own", [0.0, 2.0])
def test_the_crossed_difference_is_the_plain_sums(
    generator: np.random.Generator, shares: Array, own: float
) -> None:
    a, b = draw(generator, 3, 8, 1, own, 0.5), draw(generator, 5, 8, 2, own, 0.5)
    found = statistics.crossed_difference(spread(a, shares), spread(b, shares), shares)
    value, variance, degrees = slow_difference(a, b, shares)
    # Sums of at most 40 terms in another order: far below 1e-12 of their size.
    assert found.value == pytest.approx(value, rel=1e-12, abs=1e-14)
    assert found.error**2 == pytest.approx(variance, rel=1e-12)
    assert found.degrees == pytest.approx(degrees, rel=1e-12)
    low, high = found.interval()
    half = stats.t.ppf(0.975, degrees) * math.sqrt(variance)
    assert (low, high) == pytest.approx((value - half, value + half), rel=1e-12)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(value) / math.sqrt(variance), degrees), rel=1e-10)


def test_interval_and_p_are_one_test(generator: np.random.Generator) -> None:
    for _ in range(50):
        a, b = draw(generator, 3, 8, 1, 0, 0.5), draw(generator, 3, 8, 1, 0, 0.5) + 1.5
        found = statistics.crossed_difference(spread(a, EQUAL), spread(b, EQUAL), EQUAL)
        low, high = found.interval()
        assert (found.p < 0.05) == (low > 0 or high < 0)


def test_seeds_alone_are_welchs_test_with_fewer_degrees(generator: np.random.Generator) -> None:
    """Where each run is the same in all scenes nothing but the seeds varies."""
    a, b = generator.normal(0, 1, 4), generator.normal(1, 3, 6)
    one, other = (spread(np.repeat(x[:, None], 8, axis=1), EQUAL) for x in (a, b))
    found = statistics.crossed_difference(one, other, EQUAL)
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert found.value / found.error == pytest.approx(welch.statistic, rel=1e-9)
    assert found.degrees == pytest.approx(welch.df ** (2 / 3) * 3 ** (1 / 3), rel=1e-9)


@pytest.mark.parametrize("runs", [3, 5])
@pytest.mark.parametrize("ratio", [0.3, 1, 3])
def test_the_tail_keeps_its_promise(runs: int, ratio: float) -> None:
    """At p = 0.05 / 40, where a corrected test looks.

    Four standard errors of the promised share in 20,000 draws.
    """
    generator = np.random.default_rng(1)
    seeds = [sd * generator.normal(size=(20_000, runs)) for sd in (1.0, ratio)]
    parts = [each.var(axis=1, ddof=1) / runs for each in seeds]
    values = seeds[0].mean(axis=1) - seeds[1].mean(axis=1)
    level, shares = 0.05 / 40, np.ones(1)
    wrong = 0
    for value, first, second in zip(values, *parts, strict=True):
        both = (Spread(0.0, shares, runs, part * runs, 0.0) for part in (first, second))
        found = statistics.crossed_difference(*both, shares)
        wrong += 2 * stdtr(found.degrees, -abs(value) / found.error) < level
    assert wrong / 20_000 <= level + 4 * math.sqrt(level / 20_000)


def test_scenes_alone_are_the_paired_test(generator: np.random.Generator) -> None:
    """Where all runs of a loss agree, it is the paired t-test over scenes."""
    a, b = generator.normal(0, 1, 8), generator.normal(0.5, 1, 8)
    one, other = (spread(np.repeat(x[None], 3, axis=0), EQUAL) for x in (a, b))
    found = statistics.crossed_difference(one, other, EQUAL)
    paired = stats.ttest_rel(a, b)
    assert found.p == pytest.approx(paired.pvalue, rel=1e-9)
    assert found.degrees == pytest.approx(paired.df, rel=1e-9)


@pytest.mark.parametrize("table", range(10))
def test_equal_shares_give_what_restricted_maximum_likelihood_gives(table: int) -> None:
    """statsmodels' mixed model with crossed components: runs, scenes, and scenes with the loss.

    In a balanced design without a component at its border both give the same standard error. 1e-3 is what the
    likelihood's optimiser leaves.
    """
    import pandas
    from statsmodels.regression.mixed_linear_model import MixedLM

    generator = np.random.default_rng(table)
    runs, scenes = 4, 12
    common = generator.normal(0, 3, scenes)  # some scenes are hard for every loss
    losses = [common + draw(generator, runs, scenes, 1, 1.5, 0.7) for _ in range(2)]
    rows = [
        {"y": losses[a][i, s], "a": a, "run": f"{a}-{i}", "scene": s, "both": f"{a}-{s}"}
        for a in (0, 1)
        for i in range(runs)
        for s in range(scenes)
    ]
    frame = pandas.DataFrame(rows)
    model = MixedLM.from_formula(
        "y ~ a",
        groups=np.ones(len(frame)),
        re_formula="0",
        vc_formula={"run": "0 + C(run)", "scene": "0 + C(scene)", "both": "0 + C(both)"},
        data=frame,
    )
    fitted = model.fit(reml=True)
    assert (fitted.vcomp > 1e-3).all()
    shares = np.full(scenes, 1 / scenes)
    one, other = (spread(each, shares) for each in reversed(losses))
    found = statistics.crossed_difference(one, other, shares)
    assert found.value == pytest.approx(fitted.fe_params["a"], rel=1e-6)
    assert found.error == pytest.approx(fitted.bse_fe["a"], rel=1e-3)


def test_one_training_tells_nothing(generator: np.random.Generator) -> None:
    a, b = draw(generator, 1, 8, 1, 1, 1), draw(generator, 3, 8, 1, 1, 1)
    for one, other in ((a, b), (b, a), (a, a + 5)):
        found = statistics.crossed_difference(spread(one, EQUAL), spread(other, EQUAL), EQUAL)
        assert found.degrees != found.degrees
        assert found.p == 1
        assert found.interval() == (-math.inf, math.inf)
        assert statistics.detectable(found) == math.inf


def test_the_mean_of_one_training_has_the_scenes_interval(generator: np.random.Generator) -> None:
    scores = generator.normal(size=(1, 8))
    found = statistics.crossed_mean(spread(scores, EQUAL), EQUAL).interval()
    expected = stats.ttest_1samp(scores[0], 0).confidence_interval()
    assert found == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_one_training_in_one_scene_has_no_interval() -> None:
    found = statistics.crossed_mean(spread(np.array([[2.0]]), np.ones(1)), np.ones(1))
    assert found.value == 2
    assert found.interval() == (-math.inf, math.inf)


def test_equal_scores_are_no_difference() -> None:
    scores = np.arange(24.0).reshape(3, 8)
    found = statistics.crossed_difference(spread(scores, EQUAL), spread(scores, EQUAL), EQUAL)
    assert (found.value, found.p) == (0, 1)


def test_pooled_seeds_are_students_test(generator: np.random.Generator) -> None:
    a, b = generator.normal(0, 1, 4), generator.normal(1, 1, 6)
    one, other = (spread(np.repeat(x[:, None], 8, axis=1), EQUAL) for x in (a, b))
    found = statistics.crossed_difference(one, other, EQUAL, statistics.pool([one, other]))
    student = stats.ttest_ind(a, b)
    assert found.p == pytest.approx(student.pvalue, rel=1e-9)
    assert found.degrees == pytest.approx(student.df, rel=1e-9)
    assert statistics.pool([spread(np.ones((1, 8)), EQUAL)]) is None
    single = spread(np.ones((1, 8)), EQUAL)
    untested = statistics.crossed_difference(single, other, EQUAL, statistics.pool([one, other]))
    assert untested.p == 1  # of one training nothing is said, pooled or not


def test_holm_by_hand() -> None:
    # 0.01 x 4, then 0.02 x 3 = 0.06, then max(0.06, 0.03 x 2) = 0.06, then max(0.06, 0.04).
    assert statistics.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_benjamini_hochberg_by_hand() -> None:
    # 0.04 x 4 / 4, then min(0.04, 0.03 x 4 / 3), then min(0.04, 0.02 x 4 / 2), then min(0.04, 0.01 x 4).
    assert statistics.benjamini_hochberg([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.04] * 4)
    assert statistics.benjamini_hochberg([0.5, 0.001, 0.9]) == pytest.approx([0.75, 0.003, 0.9])
    assert statistics.benjamini_hochberg([]) == []


@pytest.mark.parametrize("degrees", [2.5, 8.0, 60.0, math.inf])
@pytest.mark.parametrize("level", [0.05, 0.05 / 110])
def test_power_is_that_of_the_noncentral_t(degrees: float, level: float) -> None:
    found = statistics.detectable(Estimate(0.0, 4.0, 0.0, degrees), level) / 2
    bound = stats.t.ppf(1 - level / 2, degrees)
    # Two million draws: a share of 0.8 has a standard error of 0.0003; quantiles of the error cut its tail.
    generator = np.random.default_rng(0)
    error = 1.0 if math.isinf(degrees) else np.sqrt(generator.chisquare(degrees, 2_000_000) / degrees)
    share = np.mean(np.abs((generator.normal(size=2_000_000) + found) / error) > bound)
    assert share == pytest.approx(0.8, abs=0.003)


def test_a_plan_of_the_pilots_seeds_has_its_error(generator: np.random.Generator) -> None:
    one, other = (spread(draw(generator, 4, 8, 1, 1, 0.3), EQUAL) for _ in range(2))
    found = statistics.crossed_difference(one, other, EQUAL)
    same = statistics.planned(one, other, EQUAL, 4)
    assert (same.error, same.degrees) == pytest.approx((found.error, found.degrees), rel=1e-12)
    more = statistics.planned(one, other, EQUAL, 16)
    assert more.runs == pytest.approx(found.runs / 4)
    assert more.scenes == found.scenes


def test_seeds_needed_find_what_they_promise(generator: np.random.Generator) -> None:
    one, other = (spread(draw(generator, 3, 40, 1, 0, 0.3), np.full(40, 1 / 40)) for _ in range(2))
    shares = np.full(40, 1 / 40)
    needed = statistics.seeds_needed(one, other, shares, 1.0)
    assert needed is not None
    assert statistics.detectable(statistics.planned(one, other, shares, needed)) <= 1
    assert statistics.detectable(statistics.planned(one, other, shares, needed - 1)) > 1
    assert statistics.seeds_needed(one, other, shares, 1e-6) is None


def test_resamples_are_the_plain_double_loop(generator: np.random.Generator) -> None:
    scores = generator.normal(size=(3, 8))
    runs, scenes = statistics.draw_counts(3, generator, 50), statistics.draw_counts(8, generator, 50)
    slow = []
    for run_counts, scene_counts in zip(runs, scenes, strict=True):
        total = weight = 0.0
        for run in np.repeat(np.arange(3), run_counts.astype(int)):
            for scene in np.repeat(np.arange(8), scene_counts.astype(int)):
                total += UNEQUAL[scene] * scores[run, scene]
                weight += UNEQUAL[scene]
        slow.append(total / weight)
    fast = statistics.resampled_means(scores, UNEQUAL, runs, scenes)
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-13)


def test_draws_are_with_replacement(generator: np.random.Generator) -> None:
    counts = statistics.draw_counts(5, generator, 4000)
    assert (counts.sum(axis=1) == 5).all()
    # Each thing is drawn once on average, with the variance 4/5 of a multinomial; six standard errors.
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=6 * math.sqrt(0.8 / 4000))
    np.testing.assert_allclose(counts.var(axis=0), 0.8, rtol=0.2)


def test_a_spread_of_one_scene() -> None:
    found = spread(np.array([[1.0], [3.0]]), np.ones(1))
    assert found == Spread(2.0, found.by_scene, 2, 2.0, 0.0)
