"""Results as rows of `clipfuse.comparison`: one variant per method, its runs its trainings."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clipfuse.board.results import Entry
from clipfuse.comparison import statistics
from clipfuse.comparison.collect import Run
from clipfuse.comparison.scores import Scores, gather_scores
from clipfuse.comparison.statistics import Array, Estimate
from clipfuse.comparison.variants import Variant


def variant_of(entry: Entry) -> Variant:
    """Return a method as a variant of `clipfuse.comparison`."""
    scenes = {name: pair.scene for name, pair in entry.pairs.items()}
    runs = [Run(Path(entry.source), {}, "finished", None, None, {}, each, scenes, {}) for each in entry.runs]
    return Variant(entry.method, tuple(runs), {})


def has(entry: Entry, name: str) -> bool:
    """Whether all runs of a method have a metric."""
    return all(name in run for run in entry.runs)


def gather_rows(entries: Sequence[Entry], name: str, images: Sequence[str], member: Array) -> Scores:
    """Return the scores of a metric; rows of methods that lack it have none."""
    having = [each for each in entries if has(each, name)]
    upwards = next(each.metrics[name] for each in entries if name in each.metrics)
    found = gather_scores([variant_of(each) for each in having], name, upwards, images, member)
    place = {id(each): row for row, each in enumerate(having)}
    rows = [place.get(id(each)) for each in entries]
    return replace(
        found,
        images=[None if row is None else found.images[row] for row in rows],
        by_scene=[None if row is None else found.by_scene[row] for row in rows],
    )


def gap(one: Array, other: Array, shares: Array) -> Estimate:
    """Estimate a mean less another over the same scenes: crossed over seeds where both have several.

    Args:
        one: (runs, scenes).
        other: the same of the other.
        shares: of the scenes, summing to 1.
    """
    if len(one) > 1 and len(other) > 1:
        spreads = statistics.spread(one, shares), statistics.spread(other, shares)
        return statistics.crossed_difference(*spreads, shares)
    difference = one.mean(axis=0, keepdims=True) - other.mean(axis=0, keepdims=True)
    return statistics.crossed_mean(statistics.spread(difference, shares), shares)
