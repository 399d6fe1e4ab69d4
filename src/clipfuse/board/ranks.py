"""Places of methods by a verdict set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from clipfuse.board.results import Entry
from clipfuse.board.rows import gap, gather_rows
from clipfuse.comparison import statistics
from clipfuse.comparison.compute import signed_scores
from clipfuse.comparison.ranking import Ranking
from clipfuse.comparison.scores import Scores
from clipfuse.comparison.statistics import LEVEL, Array, Estimate
from clipfuse.metrics.verdict import VerdictSet


@dataclass(frozen=True)
class Place:
    """How a method ranks within scenes by a verdict set.

    Attributes:
        rank: average rank among all methods of the table, 1 is best.
        low: lower end of its 95 % interval over scenes.
        high: upper end.
        behind: average rank less that of the first, with its interval; None of the first.
        p: that the difference is 0, by the same t, Holm-corrected over the rivals; None of the first.
        wins: share of scenes in which no other method ranks before it; ties are shared.
    """

    rank: float
    low: float
    high: float
    behind: Estimate | None
    p: float | None
    wins: float

    @property
    def word(self) -> str:
        """What is known of the difference from the first, in words."""
        if self.p is None:
            return "first"
        return "clearly behind" if self.p < LEVEL else "not separated from the first"


@dataclass(frozen=True)
class Ranked:
    """The places by one verdict set; None of methods that lack a metric of it.

    `better` is the share of scenes in which the row is better than the column, of those that are ranked.
    """

    verdict_set: VerdictSet
    families: Mapping[str, Sequence[str]]
    places: Sequence[Place | None]
    rows: Sequence[int]
    better: Array


def rank_by(
    verdict_set: VerdictSet,
    entries: Sequence[Entry],
    metrics: Mapping[str, Scores],
    images: Sequence[str],
    member: Array,
    shares: Array,
    notes: list[str],
) -> Ranked | None:
    """Rank the methods that have all metrics of a set which most have; None if fewer than two have them."""
    rows = [
        row
        for row in range(len(entries))
        if not verdict_set.missing([name for name in metrics if metrics[name].by_scene[row] is not None])
    ]
    shared = [name for name in metrics if all(metrics[name].by_scene[row] is not None for row in rows)]
    families = verdict_set.families(shared)
    if len(rows) < 2 or not families:
        return None
    lacking = [each.method for row, each in enumerate(entries) if row not in rows]
    if lacking:
        names = ", ".join(map(repr, lacking))
        notes.append(f"Without a rank by {verdict_set}, as metrics of it are missing: {names}.")
    counts = [len(entries[row].runs) for row in rows]
    ranked = {name for members in families.values() for name in members}
    kept = [entries[row] for row in rows]
    signed = {name: signed_scores(gather_rows(kept, name, images, member), counts) for name in ranked}
    ranking = Ranking(signed, families, counts, shares)
    averages = [ranking.average(row) for row in range(len(rows))]
    first = min(range(len(rows)), key=lambda row: averages[row].value)
    behind = {
        row: gap(ranking.by_scene[row], ranking.by_scene[first], ranking.shares)
        for row in range(len(rows))
        if row != first
    }
    corrected = dict(zip(behind, statistics.holm([each.p for each in behind.values()]), strict=True))
    means = np.array([each.mean(axis=0) for each in ranking.by_scene])
    best = np.isclose(means, means.min(axis=0), rtol=0, atol=1e-9)
    wins = (best / best.sum(axis=0)) @ np.full(best.shape[1], 1 / best.shape[1])
    places: list[Place | None] = [None] * len(entries)
    for place, row in enumerate(rows):
        low, high = averages[place].interval()
        least, most = 0.5, sum(counts) + 0.5
        places[row] = Place(
            averages[place].value,
            max(low, least),
            min(high, most),
            behind.get(place),
            corrected.get(place),
            float(wins[place]),
        )
    return Ranked(verdict_set, families, places, rows, ranking.better)


def reordered(ranked: Ranked, order: Sequence[int]) -> Ranked:
    """Return the same places with the methods in another order."""
    rows = [row for row in order if row in ranked.rows]
    places = [ranked.rows.index(row) for row in rows]
    return replace(
        ranked,
        places=[ranked.places[row] for row in order],
        rows=[order.index(row) for row in rows],
        better=ranked.better[np.ix_(places, places)],
    )
