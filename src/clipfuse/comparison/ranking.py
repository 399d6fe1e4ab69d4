"""Ranks of single trainings within scenes, on which the verdict is based."""

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from math import comb

import numpy as np

from clipfuse.comparison import statistics
from clipfuse.comparison.statistics import Array, Estimate

HALVES = 1000  # the most halves of a verdict set that are tried


class Ranking:
    """How trainings rank within scenes by the metrics of a verdict set.

    In each scene each metric ranks all runs of all losses; ranks are averaged over the metrics of a family,
    then over families, so that a family has one vote. Runs are ranked, not losses, because the seeds of one
    loss differ too. Ranks are then tested like scores, by `crossed_difference`.

    The rank of a trivial fusion is the one it would have among the runs; it changes no rank of a run.

    Args:
        metrics: metric -> scene means of all runs and then of the trivial fusions, (runs + trivial, scenes),
            larger is better; NaN where no run has a score in a scene, -inf where one run or fusion has none.
        families: family -> metrics; all are keys of `metrics`.
        losses: number of runs of each loss, in the order of the rows.
        shares: share of each scene in the images, (scenes,), summing to 1.

    Attributes:
        by_metric: average rank of each row, (rows,), by metric.
        by_scene: rank of each row's runs in each scene, (runs, scenes) per row: losses first, then trivial
            fusions.
        spreads: `spread` of the ranks of each loss.
        shares: shares of the scenes in which any metric of the set is defined, summing to 1.
        better: share of scenes and pairs of runs in which the row is better than the column, (rows, rows).
    """

    def __init__(
        self,
        metrics: Mapping[str, Array],
        families: Mapping[str, Sequence[str]],
        losses: Sequence[int],
        shares: Array,
    ) -> None:
        self.losses = losses
        self._families = families
        runs = sum(losses)
        total = len(next(iter(metrics.values())))
        ends = np.cumsum([0, *losses, *[1] * (total - runs)])
        self._rows = [slice(start, end) for start, end in pairwise(ends)]
        self.by_metric: dict[str, Array] = {}
        overall = _Mean()
        for members in families.values():
            family = _Mean()
            for name in members:
                won = _better(metrics[name])
                self.by_metric[name] = self._row_means(_ranks(won, runs), shares)
                family.add(won)
            overall.add(family.value())
        by_scene = overall.value()
        known = ~np.isnan(by_scene[:, 0, 0])
        self.shares = shares[known] / shares[known].sum()
        by_scene = by_scene[known]
        ranks = _ranks(by_scene, runs)
        self.by_scene = [ranks[row] for row in self._rows]
        self.spreads = [statistics.spread(each, self.shares) for each in self.by_scene[: len(losses)]]
        over_scenes = np.tensordot(self.shares, by_scene, axes=1)
        self.better = np.array([[over_scenes[a, b].mean() for b in self._rows] for a in self._rows])

    def average(self, row: int) -> Estimate:
        """Return the average rank of a row."""
        return statistics.crossed_mean(statistics.spread(self.by_scene[row], self.shares), self.shares)

    def difference(self, row: int, other: int) -> Estimate:
        """Return the average rank of loss `row` less that of `other`; above 0 `row` is worse."""
        return statistics.crossed_difference(self.spreads[row], self.spreads[other], self.shares)

    def first(self, generator: np.random.Generator) -> Array:
        """Return the share of resamples over runs and scenes in which each loss ranks best, (losses,)."""
        scene_counts = statistics.draw_counts(len(self.shares), generator)
        means = np.array(
            [
                statistics.resampled_means(
                    ranks, self.shares, statistics.draw_counts(len(ranks), generator), scene_counts
                )
                for ranks in self.by_scene[: len(self.losses)]
            ]
        )
        return _firsts(means)

    def stable(self, generator: np.random.Generator) -> Array:
        """Return the share of halves of the set's metrics by which each loss has the best rank, (losses,).

        All halves if there are at most `HALVES`, else `HALVES` random ones.
        """
        names = [name for members in self._families.values() for name in members]
        half = (len(names) + 1) // 2
        if comb(len(names), half) <= HALVES:
            chosen = list(combinations(range(len(names)), half))
        else:
            chosen = [tuple(generator.choice(len(names), half, replace=False)) for _ in range(HALVES)]
        taken = np.zeros((len(chosen), len(names)))
        taken[np.arange(len(chosen))[:, None], np.array(chosen)] = 1
        member = statistics.membership([family for family, each in self._families.items() for _ in each])
        counts = taken @ member  # metrics of each family in each half
        votes = np.divide(1, counts, out=np.zeros_like(counts), where=counts > 0)
        weights = taken * (votes @ member.T) / (counts > 0).sum(axis=1, keepdims=True)
        means = weights @ np.array([self.by_metric[name] for name in names])
        return _firsts(means.T[: len(self.losses)])

    def _row_means(self, ranks: Array, shares: Array) -> Array:
        known = ~np.isnan(ranks[0])
        if not known.any():
            return np.full(len(self._rows), (sum(self.losses) + 1) / 2)
        weights = shares[known] / shares[known].sum()
        return np.array([(ranks[row][:, known] @ weights).mean() for row in self._rows])


def _better(scores: Array) -> Array:
    """Return (scenes, all, all): 1 where the first is better, half for ties, NaN without scores."""
    columns = scores.T
    first, second = columns[:, :, None], columns[:, None, :]
    won = (first > second) + 0.5 * (first == second)
    return np.where(np.isnan(first) | np.isnan(second), np.nan, won)


def _ranks(better: Array, runs: int) -> Array:
    """Return ranks, (all, scenes): 0.5 plus the number of better runs, and a run ties with itself."""
    return 0.5 + better[:, :runs].sum(axis=1).T


class _Mean:
    """A running mean of the defined values; NaN where none is defined."""

    def __init__(self) -> None:
        self._total: Array | float = 0.0
        self._count: Array | float = 0.0

    def add(self, part: Array) -> None:
        known = ~np.isnan(part)
        self._total = self._total + np.where(known, part, 0)
        self._count = self._count + known

    def value(self) -> Array:
        total, count = np.asarray(self._total), np.asarray(self._count)
        return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _firsts(means: Array) -> Array:
    """Return the share of draws in which each of (losses, draws) is the least; ties share, (losses,)."""
    best = np.isclose(means, means.min(axis=0, keepdims=True), rtol=0, atol=1e-9)
    return np.asarray((best / best.sum(axis=0, keepdims=True)).mean(axis=1), dtype=np.float64)
