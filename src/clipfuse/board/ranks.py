"""Places of methods by a verdict set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan

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

    Attributes:
        verdict_set: whose metrics rank.
        families: those of its families that all ranked methods have.
        places: of the methods of the table.
        rows: of the methods that have a place.
        better: share of scenes in which the row is better than the column, of those that are ranked.
        trainings: number of runs that are ranked, which is the worst rank.
        scenes: number of scenes that are ranked.
        effective_scenes: number of scenes of equal size that would give as precise a mean.
    """

    verdict_set: VerdictSet
    families: Mapping[str, Sequence[str]]
    places: Sequence[Place | None]
    rows: Sequence[int]
    better: Array
    trainings: int
    scenes: int
    effective_scenes: float


def rank_by(
    verdict_set: VerdictSet,
    entries: Sequence[Entry],
    metrics: Mapping[str, Scores],
    images: Sequence[str],
    member: Array,
    shares: Array,
    notes: list[str],
) -> Ranked | None:
    """Rank the methods that have all metrics of a set which most have; None if fewer than two have them.

    A method for which a metric of the set is undefined on an image where at least half of the others have it
    has no rank: else its holes would choose the images by which all are ranked. The notes name it.
    """
    rows = [
        row
        for row in range(len(entries))
        if not verdict_set.missing([name for name in metrics if metrics[name].by_scene[row] is not None])
    ]
    lacking = [each.method for row, each in enumerate(entries) if row not in rows]
    shared = [name for name in metrics if all(metrics[name].by_scene[row] is not None for row in rows)]
    families = verdict_set.families(shared)
    ranked = {name for members in families.values() for name in members}
    holes = _holes({row: entries[row] for row in rows}, ranked, images)
    rows = [row for row in rows if not holes[row]]
    notes += [
        f"Without a rank by {verdict_set}: {entries[row].method!r}, as metrics of it are undefined on "
        f"{count} of {len(images)} images where others have them."
        for row, count in holes.items()
        if count
    ]
    if len(rows) < 2 or not families:
        return None
    if lacking:
        names = ", ".join(map(repr, lacking))
        notes.append(f"Without a rank by {verdict_set}, as metrics of it are missing: {names}.")
    known = [name for name in metrics if any(each is not None for each in metrics[name].by_scene)]
    for family, members in verdict_set.families(known).items():
        if family not in families:
            without = [row for row in holes if any(metrics[name].by_scene[row] is None for name in members)]
            names = ", ".join(repr(entries[row].method) for row in without)
            notes.append(f"Ranked by {verdict_set} without its family '{family}', which {names} lack.")
    counts = [len(entries[row].runs) for row in rows]
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
    return Ranked(
        verdict_set,
        families,
        places,
        rows,
        ranking.better,
        sum(counts),
        len(ranking.shares),
        statistics.effective_scenes(ranking.shares),
    )


def _holes(entries: Mapping[int, Entry], names: set[str], images: Sequence[str]) -> dict[int, int]:
    """Return on how many images a method lacks a metric that half of the methods or more define there."""
    found = {row: np.zeros(len(images), dtype=bool) for row in entries}
    for name in names:
        defined = {
            row: np.array(
                [[isfinite(run[name].get(image, nan)) for image in images] for run in entry.runs]
            ).all(axis=0)
            for row, entry in entries.items()
        }
        common = 2 * np.sum(list(defined.values()), axis=0) >= len(entries)
        for row, own in defined.items():
            found[row] |= common & ~own
    return {row: int(each.sum()) for row, each in found.items()}


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
