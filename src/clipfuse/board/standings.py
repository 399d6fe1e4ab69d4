"""From results to tables: which methods are ranked together, and what a table leaves out.

Intervals, ranks and tests are those of `clipfuse.comparison`: scenes are the samples, and of several
trainings of one loss the seeds, too. A method with one result is one network: its intervals are over scenes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import floor, log10

from clipfuse.board.drops import TARGETS, Drop, find_drops
from clipfuse.board.matching import counted_once, with_one_direction, with_one_name
from clipfuse.board.ranks import Place, Ranked, rank_by, reordered
from clipfuse.board.results import Degradation, Entry, same_scores
from clipfuse.board.rows import gather_rows, variant_of
from clipfuse.comparison import statistics
from clipfuse.comparison.scores import Scores, shared_images
from clipfuse.comparison.statistics import LEVEL, Cell
from clipfuse.comparison.table import FEW_SCENES
from clipfuse.comparison.variants import printable
from clipfuse.errors import UserError
from clipfuse.metrics.verdict import BALANCED, CLASSIC, CLASSIC_EIGHT, FAMILIES, VerdictSet

SETS = (BALANCED, CLASSIC_EIGHT)
FIRST = [name for members in FAMILIES.values() for name in members]  # columns that come first
MOST = 5  # names in a sentence


@dataclass(frozen=True)
class Column:
    """A metric of a table: its cells by method, None where a method lacks it."""

    name: str
    higher_is_better: bool
    decimals: int
    left_out: int
    cells: Sequence[Cell | None]


@dataclass(frozen=True)
class Standing:
    """One table: all methods on one set under one protocol, on the same images.

    Attributes:
        protocol: such as "strict-2".
        set: name of the set.
        degradation: of its pairs; None of the clean ones.
        effective_scenes: number of scenes of equal size that would give as precise a mean.
        entries: the methods, by their rank.
        columns: the metrics.
        ranked: the places by each verdict set whose metrics are there.
        images: number of images.
        scenes: number of their scenes.
        notes: what is left out, and what is to be known.
        drops: what degradations cost; of tables of clean pairs.
    """

    protocol: str
    set: str
    degradation: Degradation | None
    effective_scenes: float
    entries: Sequence[Entry]
    columns: Sequence[Column]
    ranked: Sequence[Ranked]
    images: int
    scenes: int
    notes: Sequence[str]
    drops: Sequence[Drop] = ()

    @cached_property
    def title(self) -> str:
        """The set, and how it was degraded."""
        return self.set if self.degradation is None else f"{self.set}, {self.degradation}"

    def place(self, method: str, verdict_set: VerdictSet = BALANCED) -> Place | None:
        """Return the place of a method by a verdict set; None where it has none."""
        for ranked in self.ranked:
            if ranked.verdict_set is verdict_set:
                for entry, place in zip(self.entries, ranked.places, strict=True):
                    if entry.method == method:
                        return place
        return None


def build_standings(entries: Sequence[Entry]) -> list[Standing]:
    """Return the tables: protocols apart, sets apart, clean pairs before degraded ones.

    Raises:
        UserError: a method has two results on one set by one protocol, or a trivial fusion two unlike ones.
    """
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    alike, unlike = with_one_direction(with_one_name(entries))
    for entry in alike:
        degraded = "" if entry.degradation is None else str(entry.degradation)
        groups.setdefault((entry.protocol, entry.set, degraded), []).append(entry)
    found: list[Standing] = []
    for key in sorted(groups, key=lambda key: (not key[0].startswith("strict-"), key)):
        kept, notes = _same_images(_without_repeats(groups[key]))
        found.append(_standing(kept, [*unlike[key[:2]], *notes]))
    return [_with_drops(each, found) for each in found]


def _with_drops(clean: Standing, standings: Sequence[Standing]) -> Standing:
    if clean.degradation is not None:
        return clean
    same = [each for each in standings if (each.set, each.protocol) == (clean.set, clean.protocol)]
    degraded = [entry for each in same if each.degradation is not None for entry in each.entries]
    return replace(clean, drops=find_drops(clean.entries, degraded))


def _without_repeats(entries: Sequence[Entry]) -> list[Entry]:
    kept: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        digests = ",".join(f"{name} {pair.pair}" for name, pair in sorted(entry.pairs.items()))
        key = entry.method, digests if entry.trivial else ""  # a trivial fusion comes with each result
        other = kept.setdefault(key, entry)
        if other is not entry and entry.trivial and _alike(entry, other):
            kept[key] = replace(
                other,
                runs=[{**entry.runs[0], **other.runs[0]}],
                metrics={**entry.metrics, **other.metrics},
            )
        elif other is not entry:
            what = "unlike scores" if entry.trivial else "a result"
            raise UserError(
                f"{other.source} and {entry.source}: both have {what} of {entry.method!r} on {entry.set!r} "
                f"by {entry.protocol}; keep one of them, or rename a method"
            )
    return list(kept.values())


def _alike(entry: Entry, other: Entry) -> bool:
    """Whether two results of a trivial fusion agree; on targets only where their masks are the same."""
    masks = [{name: pair.mask for name, pair in each.pairs.items()} for each in (entry, other)]
    both = [each if masks[0] == masks[1] else _without(each, TARGETS) for each in (entry, other)]
    return same_scores(*both)


def _same_images(entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """Keep the methods of the images that most methods have, and name the others."""
    groups: dict[tuple[tuple[str, str], ...], list[Entry]] = {}
    for entry in entries:
        key = tuple(sorted((name, pair.pair) for name, pair in entry.pairs.items()))
        groups.setdefault(key, []).append(entry)
    most = max(groups, key=lambda key: (sum(not each.trivial for each in groups[key]), len(key), key))
    notes = []
    for key, others in groups.items():
        if key == most:
            continue
        same = (Counter(pair for _, pair in key) & Counter(pair for _, pair in most)).total()
        names = ", ".join(repr(each.method) for each in others)
        notes.append(
            f"Left out: {names}: measured on other images of {entries[0].set!r}: {len(key)}, of which {same} "
            f"are among the {len(most)} of the others; score them on the same files."
        )
    return groups[most], notes


def _with_common_scenes(entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """Give all methods the scenes of the one that has the fewest: the widest intervals; copies have one."""
    (_, copies), *_ = once = [counted_once(each.pairs) for each in entries]
    entries = [replace(each, pairs=pairs) for each, (pairs, _) in zip(entries, once, strict=True)]
    counted = {id(each): len({pair.scene for pair in each.pairs.values()}) for each in entries}
    fewest = min(entries, key=lambda each: counted[id(each)])
    scenes = {name: pair.scene for name, pair in fewest.pairs.items()}
    notes = [copies] if copies else []
    if any(_parted(each) != _parted(fewest) for each in entries):
        notes.append(
            f"The results name unlike scenes; those of {fewest.source} are taken, which are the fewest "
            f"({counted[id(fewest)]})."
        )
    if fewest.scenes_from == "names":
        notes.append(
            "Each image counts as a scene of its own; if some show one place, intervals are too narrow."
        )
    pairs = {name: replace(pair, scene=scenes[name]) for name, pair in fewest.pairs.items()}
    return [replace(each, pairs=pairs) for each in entries], notes


def _parted(entry: Entry) -> set[frozenset[str]]:
    """Return the images of each scene, whatever it is called."""
    members: dict[str, set[str]] = {}
    for name, pair in entry.pairs.items():
        members.setdefault(pair.scene, set()).add(name)
    return {frozenset(names) for names in members.values()}


def _standing(entries: Sequence[Entry], notes: list[str]) -> Standing:
    masks = {name: {each.pairs[name].mask for each in entries} - {None} for name in entries[0].pairs}
    if any(len(found) > 1 for found in masks.values()):
        entries = [_without(each, TARGETS) for each in entries]
        notes.append("Left out: metrics of targets, because the results were scored with unlike masks.")
    entries, more = _with_common_scenes(entries)
    notes += more
    images, member = shared_images([variant_of(each) for each in entries])
    shares = member.sum(axis=0) / len(images)
    names = list(dict.fromkeys(name for each in entries for run in each.runs for name in run))
    names = [name for name in FIRST if name in names] + [name for name in names if name not in FIRST]
    metrics = {name: gather_rows(entries, name, images, member) for name in names}
    has_rank = [rank_by(verdict_set, entries, metrics, images, member, shares, notes) for verdict_set in SETS]
    ranked = [each for each in has_rank if each is not None]
    if not ranked and (found := rank_by(CLASSIC, entries, metrics, images, member, shares, notes)):
        ranked = [found]
    order = sorted(range(len(entries)), key=lambda row: (*_order(ranked, row), entries[row].method))
    return Standing(
        protocol=entries[0].protocol,
        set=entries[0].set,
        degradation=entries[0].degradation,
        effective_scenes=statistics.effective_scenes(shares),
        entries=[entries[row] for row in order],
        columns=[_column(each, order) for each in metrics.values()],
        ranked=[reordered(each, order) for each in ranked],
        images=len(images),
        scenes=member.shape[1],
        notes=notes,
    )


def _without(entry: Entry, names: set[str]) -> Entry:
    runs = [{name: each for name, each in run.items() if name not in names} for run in entry.runs]
    pairs = {name: replace(pair, mask=None) for name, pair in entry.pairs.items()}
    return replace(entry, runs=runs, pairs=pairs)


def _order(ranked: Sequence[Ranked], row: int) -> tuple[bool, float]:
    place = ranked[0].places[row] if ranked else None
    return place is None, place.rank if place else 0.0


def _column(metric: Scores, order: Sequence[int]) -> Column:
    spreads = [metric.spreads[row] for row in order]
    means = sorted({each.mean for each in spreads if each}, reverse=metric.higher_is_better)
    cells: list[Cell | None] = []
    for each in spreads:
        if each is None:
            cells.append(None)
            continue
        place = means.index(each.mean) + 1
        interval = statistics.crossed_mean(each, metric.shares).interval()
        std = each.of_runs**0.5 if each.runs > 1 else None
        cells.append(Cell(each.mean, std, *interval, place=place if place < 3 else None))
    largest = max(map(abs, means), default=0)
    decimals = min(4, max(0, 3 - floor(log10(largest)))) if largest else 4
    return Column(metric.name, metric.higher_is_better, decimals, int((~metric.kept).sum()), cells)


def in_words(standing: Standing) -> list[str]:
    """Return what a table shows in sentences, the first method first."""
    lines = []
    for ranked in standing.ranked:
        rows = zip(standing.entries, ranked.places, strict=True)
        found = [(printable(entry.method), place) for entry, place in rows if place is not None]
        first, best = min(found, key=lambda pair: pair[1].rank)
        open_to = [f"'{name}'" for name, place in found if place.p is not None and place.p >= LEVEL]
        if ranked.effective_scenes < FEW_SCENES:
            few = f"{ranked.effective_scenes:.1f} effective scenes are fewer than {FEW_SCENES}"
            end = f"no winner is named, as {few}."
        elif open_to:
            shown = ", ".join([*open_to[:MOST], *([f"{len(open_to) - MOST} more"] if open_to[MOST:] else [])])
            end = f"no test separates it from {shown}."
        else:
            end = "it is clearly before every other method."
        among = f"{len(found)} methods"
        if ranked.trainings > len(found):
            among = f"{ranked.trainings} trainings of {among}"
        lines.append(
            f"By {ranked.verdict_set} '{first}' has the best average rank, {best.rank:.2f} among {among} "
            f"over {ranked.scenes} scenes; {end}"
        )
    return lines
