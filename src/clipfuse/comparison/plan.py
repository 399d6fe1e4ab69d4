"""How many seeds a difference needs, from a pilot sweep."""

from collections.abc import Mapping, Sequence
from math import inf, isfinite

from clipfuse.comparison import statistics
from clipfuse.comparison.compute import pairs
from clipfuse.comparison.machine import Seen
from clipfuse.comparison.scores import collect, shared_images
from clipfuse.comparison.statistics import LEVEL, Array, Spread
from clipfuse.comparison.variants import Variant
from clipfuse.errors import UserError
from clipfuse.metrics.protocols import Protocol

SEEDS = (3, 5, 10, 20, 40, 100)


def plan(
    variants: Sequence[Variant],
    protocol: Protocol,
    metrics: Sequence[str],
    reference: str,
    wanted: Mapping[str, float],
    seen: Sequence[Seen] = (),
    machine: Sequence[str] = (),
) -> list[str]:
    """Return lines with the number of seeds that find a difference clearly with a probability of 80 %.

    For each metric the pair of losses that needs most seeds counts. "Clearly" is tested at 5 % divided by the
    number of tests, the level of the first step of Holm's correction.

    Args:
        variants: the losses of the pilot, two seeds or more of each.
        protocol: the protocol of their scores.
        metrics: the metrics that the study will test.
        reference: name of the reference loss, or "all".
        wanted: metric -> difference to be found; empty: a table of what 3 to 100 seeds find.
        seen: what machines see, of the same losses.
        machine: columns of it that the study will test.

    Raises:
        UserError: a loss has a single seed, there is one loss, or a metric is not among `metrics`.
    """
    few = [variant.name for variant in variants if len(variant.runs) < 2]
    if few:
        raise UserError(
            f"--plan: '{few[0]}' has one seed, which shows no variation of seeds; train two or more"
        )
    losses = [variant.name for variant in variants]
    tested = pairs(losses, reference)
    downstream = {name: each for part in seen for name, each in part.scores(losses, ()).items()}
    metrics = [*metrics, *machine]
    if not tested:
        raise UserError("--plan: there is one loss; a plan needs two that will be compared")
    for name in wanted:
        if name not in metrics:
            raise UserError(f"--plan {name}: not among the metrics, which are {', '.join(metrics)}")
    images, member = shared_images(variants)
    level = LEVEL / (len(metrics) * len(tested))
    found: dict[str, tuple[Array, list[tuple[Spread, Spread]]]] = {}
    for name in metrics:
        scores = downstream.get(name) or collect(variants, protocol, name, images, member)
        spreads = dict(zip(losses, scores.spreads, strict=True))
        both = [(spreads[one], spreads[other]) for one, other in tested]
        found[name] = scores.shares, [(a, b) for a, b in both if a is not None and b is not None]
    lines = [
        f"found clearly with 80 %, at 5 % over {len(metrics) * len(tested)} tests, on {member.shape[1]} "
        "scenes like these; seeds are of each loss, and of the pairs the one that needs most counts"
    ]
    if wanted:
        return lines + [_needed(name, *found[name], wanted[name], level) for name in wanted]
    head = ["metric", *(f"{count} seeds" for count in SEEDS)]
    rows = [head, *([name, *_smallest(*found[name], level)] for name in metrics)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
    return lines + [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    ]


def _smallest(shares: Array, both: Sequence[tuple[Spread, Spread]], level: float) -> list[str]:
    cells, least = [], inf
    for count in SEEDS:
        values = [
            statistics.detectable(statistics.planned(one, other, shares, count), level) for one, other in both
        ]
        # The degrees of freedom are estimates; more seeds never find less.
        least = min(least, max(values, default=inf))
        cells.append(f"{least:.3g}" if isfinite(least) else "-")
    return cells


def _needed(
    name: str, shares: Array, both: Sequence[tuple[Spread, Spread]], difference: float, level: float
) -> str:
    counts = [statistics.seeds_needed(one, other, shares, difference, level) for one, other in both]
    known = [count for count in counts if count is not None]
    if not counts or len(known) < len(counts):
        return (
            f"{name}: a difference of {difference:g} is not found by {statistics.MOST_SEEDS} seeds: the "
            "scenes differ too much; more scenes are needed"
        )
    return f"{name}: a difference of {difference:g} needs {max(known)} seeds of each loss"
