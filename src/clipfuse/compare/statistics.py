"""What several seeds and scenes allow to say: intervals, paired tests, effect sizes, ranks.

Arrays are float64. Scores of one metric and variant are (seeds, images); a block is what ranks are taken
within, here a scene.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95


def membership(scenes: Sequence[str]) -> Array:
    """Return 1 where an image shows a scene, else 0: (images, scenes), scenes in order of first sight."""
    names = list(dict.fromkeys(scenes))
    return np.equal.outer(np.array(scenes), np.array(names)).astype(np.float64)


def draw_counts(kinds: int, generator: np.random.Generator, resamples: int = RESAMPLES) -> Array:
    """Return how often each thing is in each resample drawn with replacement, (resamples, kinds)."""
    return generator.multinomial(kinds, np.full(kinds, 1 / kinds), size=resamples).astype(np.float64)


def resampled_means(scores: Array, member: Array, seed_counts: Array, scene_counts: Array) -> Array:
    """Return the mean score of each resample of a two-level bootstrap, (resamples,).

    Seeds and scenes are crossed (each seed meets each scene), so both are resampled, independently
    (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007); a scene comes with all its
    images. With one seed only scenes vary. NaN where a resample draws no image.

    Args:
        scores: (seeds, images).
        member: (images, scenes) of `membership`.
        seed_counts: (resamples, seeds) of `draw_counts`.
        scene_counts: (resamples, scenes) of `draw_counts`.
    """
    totals = ((seed_counts @ (scores @ member)) * scene_counts).sum(axis=1)
    drawn = seed_counts.sum(axis=1) * (scene_counts @ member.sum(axis=0))
    return np.divide(totals, drawn, out=np.full(len(drawn), np.nan), where=drawn > 0)


def interval(values: Array, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval of resampled values (Efron & Tibshirani 1993, chapter 13)."""
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilcoxon(scores: Array, baseline: Array) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test on paired scores, (images,).

    Equal pairs are dropped, as Wilcoxon did; where all are equal p is 1.
    """
    differences = scores - baseline
    if not differences.any():
        return 1.0
    return float(stats.wilcoxon(differences).pvalue)


def rank_biserial(scores: Array, baseline: Array) -> float:
    """Return the matched-pairs rank-biserial correlation (Kerby 2014), from -1 to 1.

    The sum of the ranks of pairs in which `scores` is larger, less that of the others, over all: 1 where
    every image is larger, 0 where neither side prevails. Equal pairs are dropped.
    """
    differences = (scores - baseline)[scores != baseline]
    if not differences.size:
        return 0.0
    ranks = stats.rankdata(np.abs(differences))
    return float((np.sign(differences) * ranks).sum() / ranks.sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979): the family-wise error stays below the level."""
    order = np.argsort(p_values, kind="stable")
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def ranks(scores: Array, higher_is_better: bool) -> Array:
    """Return the ranks along the last axis, 1 the best; ties share their mean, NaN is worst of all."""
    signed = -scores if higher_is_better else scores
    return np.asarray(stats.rankdata(np.where(np.isnan(signed), np.inf, signed), axis=-1), dtype=np.float64)


def friedman(blocks: Array) -> float:
    """Return the p-value of Friedman's test that all k variants rank alike; (blocks, k), k above 2."""
    if (blocks == blocks[:, :1]).all():
        return 1.0
    return float(stats.friedmanchisquare(*blocks.T).pvalue)


def critical_difference(variants: int, blocks: int, level: float = LEVEL) -> float:
    """Return how far two average ranks must lie apart to differ (Nemenyi's test, Demšar, JMLR 2006).

    Args:
        variants: number compared, 2 or more.
        blocks: independent blocks the ranks are averaged over.
        level: of confidence for all pairs together.
    """
    quantile = stats.studentized_range.ppf(level, variants, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(variants * (variants + 1) / (6 * blocks)))
