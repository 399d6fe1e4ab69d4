"""Scores of downstream tasks as crossed scores of runs and scenes, by the jackknife over scenes.

mIoU and mAP pool all images, so that a scene has no score whose mean they are. Its pseudo-value takes this
place: S x (score of all S scenes) - (S - 1) x (score without the scene), after Tukey ("Bias and confidence in
not quite large samples", Annals of Mathematical Statistics 1958). For a mean it is the scene's score itself;
for a smooth function of means the variance of the pseudo-values gives that of the score (Miller, "The
jackknife - a review", Biometrika 1974). So the estimator of `clipfuse.comparison.statistics` applies to them
unchanged. Own design are three choices, with their figures in experiments/verdict:

- Each run's pseudo-values are moved by one number to have the score itself as their mean, which is what is
  reported; variances are as before.
- A scene that changes a score of no run, as one without any car or any night, does not count for this score:
  a class in 3 of 50 scenes has 2 degrees of freedom, not 49.
- Scenes are alike whatever their number of images, as in the rest of the comparison.

Several task seeds of one run are measurements of this run: their pseudo-values are averaged. What a task seed
does to one run alone, divided by the number of task seeds, is thereby part of the variance between runs,
where it belongs: with new trainings it would be drawn anew. What it does to all runs alike (the same start,
the same batches) cancels in every difference, because all runs have the same task seeds; it is in no interval
of a score by itself, which holds for these task seeds. What it does to all runs of one loss alike, and to no
other, only more task seeds separate from the loss: an F-test looks for it (`Crossed.favoured`), the verdict
names it, and the spread over task seeds is shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f

from clipfuse.comparison import statistics
from clipfuse.comparison.judged import Judged
from clipfuse.comparison.statistics import Array, Cell, Estimate, Spread

_WIDEST = 200.0  # of an interval of scores in 0..100: with hardly a degree of freedom it holds everything


def leave_out(judged: Judged, scenes: Sequence[str]) -> dict[str, Array]:
    """Return each score over all images and without each scene, (1 + scenes,)."""
    own = np.array(list(judged.scenes.values()))
    taken = np.ones((1 + len(scenes), len(own)))
    taken[1:] = np.not_equal.outer(np.array(scenes), own)
    return judged.evidence.scores(taken)


def pseudo_values(scores: Array) -> Array:
    """Return the pseudo-values of scenes, moved so that their mean is the score, (..., S).

    Args:
        scores: the score of all scenes, then without each, (..., 1 + S).
    """
    whole, without = scores[..., :1], scores[..., 1:]
    count = without.shape[-1]
    if count == 1:
        return whole.copy()
    values = count * whole - (count - 1) * without
    return np.asarray(values - values.mean(axis=-1, keepdims=True) + whole, dtype=np.float64)


@dataclass(frozen=True)
class Crossed:
    """One score of all rows, by run, task seed and scene.

    Attributes:
        present: which of the scenes count for it, (scenes,).
        values: pseudo-values of each row, (runs, task seeds, scenes that count); None where the score is not
            defined. The first `losses` rows are losses; others have one "run". Where the score hangs on a
            single scene, (runs, task seeds, 1): the score itself.
        losses: number of losses.
    """

    present: NDArray[np.bool_]
    values: Sequence[Array | None]
    losses: int

    @property
    def scenes(self) -> int:
        """Number of scenes that the values have; with one there are no intervals."""
        return next((each.shape[2] for each in self.values if each is not None), 0)

    @property
    def shares(self) -> Array:
        """Share of each scene that counts: all alike."""
        return np.full(self.scenes, 1 / max(1, self.scenes))

    def by_scene(self, row: int) -> Array | None:
        """Return the pseudo-values averaged over task seeds, (runs, scenes that count)."""
        values = self.values[row]
        return None if values is None else values.mean(axis=1)

    def cell(self, row: int) -> Cell | None:
        """Return the score with its interval over runs and scenes; None where it is not defined."""
        found = self.by_scene(row)
        if found is None:
            return None
        spread = statistics.spread(found, self.shares)
        std = spread.of_runs**0.5 if spread.runs > 1 else None
        low, high = -inf, inf
        if self.scenes > 1:  # of one scene nothing is known of others
            low, high = statistics.crossed_mean(spread, self.shares).interval()
            if high - low > _WIDEST:
                low, high = -inf, inf
        return Cell(spread.mean, std, low, high)

    def by_seed(self, row: int) -> list[float]:
        """Return the score by task seed, mean over runs; empty where it is not defined."""
        values = self.values[row]
        return [] if values is None else values.mean(axis=(0, 2)).tolist()

    def gap(self, row: int, other: int) -> Estimate | None:
        """Estimate the score of a row less that of another; degrees are NaN where there are too few.

        A row that was not trained is fixed, but its task networks are samples: its task seeds take the place
        of runs, after what each task seed does to all losses' runs alike has been taken out, because this
        cancels in the difference.
        """
        spreads = self._as_runs(row), self._as_runs(other)
        if spreads[0] is None or spreads[1] is None:
            return None
        if self.scenes < 2:
            return Estimate(spreads[0].mean - spreads[1].mean, 0.0, 0.0, nan)
        return statistics.crossed_difference(spreads[0], spreads[1], self.shares)

    @property
    def favoured(self) -> float:
        """P-value of "no task seed favours a loss": of the F-test of losses x task seeds in run means.

        NaN with one task seed, one loss, or one run of each.
        """
        means = [each.mean(axis=2) for each in self.values[: self.losses] if each is not None]
        within = [each - each.mean(axis=1, keepdims=True) for each in means]
        seeds = means[0].shape[1] if means else 1
        degrees = (len(means) - 1) * (seeds - 1), sum(len(each) - 1 for each in means) * (seeds - 1)
        if not all(degrees):
            return nan
        by_loss = [each.mean(axis=0) for each in within]
        common = np.concatenate(within).mean(axis=0)
        between = sum(
            len(each) * np.square(own - common).sum() for each, own in zip(means, by_loss, strict=True)
        )
        rest = sum(np.square(each - own).sum() for each, own in zip(within, by_loss, strict=True))
        if not rest:
            return nan
        return float(f.sf(between / degrees[0] / (rest / degrees[1]), *degrees))

    def _as_runs(self, row: int) -> Spread | None:
        values = self.values[row]
        if values is None:
            return None
        if row < self.losses:
            return statistics.spread(values.mean(axis=1), self.shares)
        trained = [each for each in self.values[: self.losses] if each is not None]
        common: Array = np.zeros(values.shape[1:])
        if trained:
            common = np.concatenate(trained).mean(axis=0)
            common = common - common.mean(axis=0)
        return statistics.spread(values[0] - common, self.shares)


def cross(rows: Sequence[Sequence[Sequence[Mapping[str, Array]]]], losses: int) -> dict[str, Crossed]:
    """Return each score as pseudo-values.

    Args:
        rows: of each row, of each run, of each task seed: what `leave_out` gives.
        losses: number of rows that are losses; they come first.
    """
    found = {}
    for name in rows[0][0][0]:
        scores = [np.array([[seed[name] for seed in run] for run in runs]) for runs in rows]
        flat = np.concatenate([each.reshape(-1, each.shape[-1]) for each in scores])
        whole, without = flat[:, :1], flat[:, 1:]
        present = ~((without == whole) | (np.isnan(without) & np.isnan(whole))).all(axis=0)
        defined = flat[~np.isnan(whole[:, 0])]
        several = present.sum() > 1 and not np.isnan(defined[:, 1:][:, present]).any()
        kept = np.concatenate([[True], present])
        values: list[Array | None] = []
        for each in scores:
            pseudo = pseudo_values(each[..., kept]) if several else each[..., :1]
            values.append(None if np.isnan(each[..., 0]).any() else pseudo)
        found[name] = Crossed(present, values, losses)
    return found
