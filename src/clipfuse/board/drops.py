"""What a degradation of the sources costs a method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from clipfuse.board.results import Degradation, Entry
from clipfuse.board.rows import gap, gather_rows, has, variant_of
from clipfuse.comparison.scores import shared_images
from clipfuse.comparison.statistics import Estimate
from clipfuse.metrics import DEFINITIONS

TARGETS = {name for name, each in DEFINITIONS.items() if each.needs_mask}


@dataclass(frozen=True)
class Drop:
    """What a degradation costs a method: metric -> clean less degraded, in the metric's good direction."""

    method: str
    degradation: Degradation
    costs: Mapping[str, Estimate]


def find_drops(clean: Sequence[Entry], degraded: Sequence[Entry]) -> list[Drop]:
    """Return what each degradation of a set costs each method, over the images that both results have.

    Args:
        clean: the methods on the clean pairs, in the order of their table.
        degraded: those on degraded pairs of the same set under the same protocol.
    """
    methods = {each.method: place for place, each in enumerate(clean)}
    found = []
    for worse in degraded:
        if worse.degradation is not None and worse.method in methods:
            costs = _costs(clean[methods[worse.method]], worse)
            found += [Drop(worse.method, worse.degradation, costs)] if costs else []

    def order(drop: Drop) -> tuple[str, str, int, int]:
        each = drop.degradation
        return each.kind, each.against, each.strength, methods[drop.method]

    return sorted(found, key=order)


def _costs(clean: Entry, degraded: Entry) -> dict[str, Estimate]:
    # Scored against the clean pairs, these are the same files; masks are, wherever targets are compared.
    against_clean = degraded.degradation is not None and degraded.degradation.against == "clean"
    images = [
        name
        for name, pair in clean.pairs.items()
        if name in degraded.pairs and not (against_clean and degraded.pairs[name].pair != pair.pair)
    ]
    masks_differ = any(clean.pairs[name].mask != degraded.pairs[name].mask for name in images)
    pair = [replace(each, pairs={n: clean.pairs[n] for n in images}) for each in (clean, degraded)]
    if not images:
        return {}
    shown, member = shared_images([variant_of(each) for each in pair])
    costs = {}
    for name, upwards in clean.metrics.items():
        if not all(has(each, name) for each in pair) or (masks_differ and name in TARGETS):
            continue
        scores = gather_rows(pair, name, shown, member)
        one, other = scores.by_scene
        if one is not None and other is not None:
            sign = 1.0 if upwards else -1.0
            costs[name] = gap(sign * one, sign * other, scores.shares)
    return costs
