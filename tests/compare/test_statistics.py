"""Each statistic against scipy, a hand-worked example or an obvious slow twin."""

import math

import numpy as np
import pytest
from scipy import stats

from clipfuse.compare import statistics

SCENES = ["a", "a", "b", "c", "c", "c", "d"]


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(7)


def test_membership() -> None:
    expected = [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert statistics.membership(["x", "y", "x", "z"]).tolist() == expected


def test_the_two_level_bootstrap_is_the_plain_double_loop(generator: np.random.Generator) -> None:
    scores = generator.normal(size=(3, len(SCENES)))
    member = statistics.membership(SCENES)
    seeds, scenes = statistics.draw_counts(3, generator, 50), statistics.draw_counts(4, generator, 50)
    slow = []
    for seed_counts, scene_counts in zip(seeds, scenes, strict=True):
        values = []
        for seed in np.repeat(np.arange(3), seed_counts.astype(int)):
            for scene in np.repeat(np.arange(4), scene_counts.astype(int)):
                values += [scores[seed, i] for i, name in enumerate(SCENES) if name == "abcd"[scene]]
        slow.append(math.fsum(values) / len(values))
    fast = statistics.resampled_means(scores, member, seeds, scenes)
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-13)


def test_draws_are_with_replacement(generator: np.random.Generator) -> None:
    counts = statistics.draw_counts(5, generator, 4000)
    assert (counts.sum(axis=1) == 5).all()
    # Each thing is drawn once on average, with the variance 4/5 of a multinomial; six standard errors.
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=6 * math.sqrt(0.8 / 4000))
    np.testing.assert_allclose(counts.var(axis=0), 0.8, rtol=0.2)


def test_a_resample_without_images_has_no_mean() -> None:
    member = np.array([[1.0, 0.0]])  # the second scene holds none
    means = statistics.resampled_means(
        np.array([[3.0]]), member, np.ones((2, 1)), np.array([[2.0, 0], [0, 2]])
    )
    assert means[0] == 3
    assert np.isnan(means[1])
    assert statistics.interval(means) == (3, 3)


def test_interval_covers_a_known_mean() -> None:
    """Of 95 % intervals over 40 independent scenes about 95 % hold the mean: 3 standard errors of 400."""
    held = 0
    for trial in range(400):
        generator = np.random.default_rng(trial)
        scores = generator.normal(size=(1, 40))
        counts = statistics.draw_counts(40, generator, 400)
        means = statistics.resampled_means(scores, np.eye(40), np.ones((400, 1)), counts)
        low, high = statistics.interval(means)
        held += low <= 0 <= high
    assert held / 400 == pytest.approx(0.94, abs=3 * math.sqrt(0.95 * 0.05 / 400))


def test_frames_of_one_scene_are_not_independent(generator: np.random.Generator) -> None:
    """Ten frames that show the same say as much as one: the interval does not shrink."""
    per_scene = generator.normal(size=8)
    counts = statistics.draw_counts(8, generator)
    ones = np.ones((len(counts), 1))
    one = statistics.resampled_means(per_scene[None], np.eye(8), ones, counts)
    names = [str(scene) for scene in range(8) for _ in range(10)]
    ten = statistics.resampled_means(
        np.repeat(per_scene, 10)[None], statistics.membership(names), ones, counts
    )
    np.testing.assert_allclose(ten, one, atol=1e-12)


def test_holm_by_hand() -> None:
    # 0.01 x 4, then 0.02 x 3 = 0.06, then max(0.06, 0.03 x 2) = 0.06, then max(0.06, 0.04).
    assert statistics.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_wilcoxon_is_scipys_and_takes_equal_pairs(generator: np.random.Generator) -> None:
    first, second = generator.normal(size=(2, 12))
    assert statistics.wilcoxon(first, second) == stats.wilcoxon(first, second).pvalue
    assert statistics.wilcoxon(first, first) == 1
    assert statistics.wilcoxon(first + 1, first) == pytest.approx(2 / 2**12)  # exact: all on one side


def test_rank_biserial_by_its_definition(generator: np.random.Generator) -> None:
    first = generator.integers(0, 6, size=30).astype(float)
    second = generator.integers(0, 6, size=30).astype(float)
    differences = [a - b for a, b in zip(first, second, strict=True) if a != b]
    sizes = sorted(abs(d) for d in differences)

    def rank(size: float) -> float:
        places = [place + 1 for place, each in enumerate(sizes) if each == size]
        return sum(places) / len(places)

    favourable = sum(rank(abs(d)) for d in differences if d > 0)
    total = len(differences) * (len(differences) + 1) / 2
    expected = favourable / total - (total - favourable) / total
    assert statistics.rank_biserial(first, second) == pytest.approx(expected, abs=1e-14)
    assert statistics.rank_biserial(first + 10, first) == 1
    assert statistics.rank_biserial(first, first) == 0


def test_ranks() -> None:
    scores = np.array([[0.3, 0.9, 0.3, np.nan], [np.nan] * 4])
    assert statistics.ranks(scores, True).tolist() == [[2.5, 1, 2.5, 4], [2.5] * 4]
    assert statistics.ranks(scores, False).tolist()[0] == [1.5, 3, 1.5, 4]


@pytest.mark.parametrize(
    ("variants", "quantile"),
    [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (10, 3.164)],
)
def test_critical_difference_has_the_quantiles_of_demsars_table(variants: int, quantile: float) -> None:
    """Table 5(a) of Demšar 2006, whose third decimal is cut or rounded."""
    difference = statistics.critical_difference(variants, 14)
    assert difference / math.sqrt(variants * (variants + 1) / (6 * 14)) == pytest.approx(quantile, abs=1e-3)


def test_friedman_is_scipys(generator: np.random.Generator) -> None:
    blocks = generator.normal(size=(9, 4)) + np.arange(4) / 2
    ranks = statistics.ranks(blocks, False)
    mean = ranks.mean(axis=0)
    # Friedman's own formula.
    chi_squared = 12 * 9 / (4 * 5) * (float((mean**2).sum()) - 4 * 25 / 4)
    assert statistics.friedman(blocks) == pytest.approx(stats.chi2.sf(chi_squared, 3), rel=1e-12)
    assert statistics.friedman(np.ones((5, 3))) == 1
