"""What a machine sees: downstream results of all runs of a comparison, where they can be compared."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np

from clipfuse.comparison.collect import Run
from clipfuse.comparison.evidence import TASKS
from clipfuse.comparison.jackknife import Crossed, cross, leave_out
from clipfuse.comparison.judged import Judged, read_plain
from clipfuse.comparison.scores import Scores
from clipfuse.comparison.statistics import LEVEL, Cell, Estimate
from clipfuse.comparison.variants import Variant
from clipfuse.ops.settings import leaves
from clipfuse.types import LabelSet

BOTH = "both"
BANDS = ("infrared", "visible")
FIRST = "retrained"  # the protocol whose scores are named without it
Group = dict[int, Judged]  # task seed -> result, of one source, protocol and settings


@dataclass(frozen=True)
class Seen:
    """One task under one protocol, of all losses and of the sources that no run has made.

    Attributes:
        task: "segmentation" or "detection".
        protocol: such as "retrained-1".
        seeds: task seeds, which all rows have.
        rows: names of the losses, then of the other sources.
        losses: number of losses.
        images: names of the test images.
        scenes: their scenes.
        crossed: score -> its pseudo-values by run, task seed and scene.
        first: of each row the result of the first run and task seed, which is shown.
    """

    task: str
    protocol: str
    seeds: tuple[int, ...]
    rows: tuple[str, ...]
    losses: int
    images: tuple[str, ...]
    scenes: tuple[str, ...]
    crossed: Mapping[str, Crossed]
    first: Sequence[Judged]

    @property
    def labels(self) -> LabelSet:
        """The labels of the data set."""
        return self.first[0].labels

    @property
    def main(self) -> str:
        """The score by which the text compares: mIoU or mAP."""
        return "mIoU" if self.task == "segmentation" else "mAP"

    @property
    def columns(self) -> dict[str, str]:
        """The scores that are columns of the table: score -> name of the column."""
        stem = self.protocol.rpartition("-")[0]
        suffix = "" if stem == FIRST else f" ({stem})"
        defined = [name for name in TASKS[self.task] if self.crossed[name].scenes > 1]
        return {name: f"{name}{suffix}" for name in defined}

    @property
    def overall(self) -> list[str]:
        """The scores over all classes, also of groups of images as "mIoU/night"."""
        classes = set(self.by_class)
        return [name for name, each in self.crossed.items() if each.scenes and name not in classes]

    @property
    def by_class(self) -> list[str]:
        """The scores of single classes, the absent ones too."""
        stems = ("IoU",) if self.task == "segmentation" else ("AP50", "AP")
        names = [f"{stem}/{name}" for stem in stems for name in self.labels.names]
        return [name for name in names if name in self.crossed]

    def cell(self, name: str, row: int) -> Cell | None:
        """Return a score of a row with its interval; None of a class that no image has."""
        if name in self.by_class and name.partition("/")[2] in self.first[row].evidence.absent:
            return None
        return self.crossed[name].cell(row)

    def gap(self, row: int, other: str, name: str | None = None) -> Estimate | None:
        """Estimate the main score of a row less that of another source; None where one has none."""
        if other not in self.rows[self.losses :]:
            return None
        return self.crossed[name or self.main].gap(row, self.rows.index(other, self.losses))

    @property
    def band(self) -> str | None:
        """The better single band by the main score; None where a band is missing."""
        values = {name: self._value(name) for name in BANDS if name in self.rows[self.losses :]}
        known = {name: value for name, value in values.items() if value is not None}
        return max(known, key=lambda name: known[name]) if len(known) == len(BANDS) else None

    def _value(self, name: str) -> float | None:
        cell = self.crossed[self.main].cell(self.rows.index(name, self.losses))
        return None if cell is None else cell.mean

    @property
    def best(self) -> int | None:
        """The loss with the best main score; None where none is defined."""
        cells = [self.crossed[self.main].cell(row) for row in range(self.losses)]
        known = [(cell.mean, -row) for row, cell in enumerate(cells) if cell is not None]
        return -max(known)[1] if known else None

    def scores(self, rows: Sequence[str], scenes: Sequence[str]) -> dict[str, Scores]:
        """Return the columns of the table by name.

        Args:
            rows: names of the table's rows in its order; those that are not here have no score.
            scenes: the scenes of the table; where they are those of the task, they give the order.
        """
        places = [self.rows.index(name) if name in self.rows else None for name in rows]
        same = set(scenes) == set(self.scenes)
        order = [self.scenes.index(scene) for scene in scenes] if same else list(range(len(self.scenes)))
        found = {}
        for name, label in self.columns.items():
            crossed = self.crossed[name]
            present = crossed.present[order]
            kept = (np.cumsum(crossed.present) - 1)[order][present]
            by_row = [None if place is None else crossed.by_scene(place) for place in places]
            values = [None if each is None else each[:, kept] for each in by_row]
            aligned = present if same else np.zeros(len(scenes), dtype=bool)
            counted = np.ones(len(self.images), dtype=bool)
            found[label] = Scores(label, True, counted, values, values, crossed.shares, aligned)
        return found

    def sentences(self) -> list[str]:
        """Return what the best loss has lost against both bands, and gained over the better one."""
        best = self.best
        if best is None:
            return []
        own = self.rows[best]
        found = []
        under = f"{self.main}, {self.task} by {self.protocol}"
        whats = ((BOTH, "both bands fed to the task network"), (self.band, "the better single band"))
        for other, what in whats:
            gap = None if other is None else self.gap(best, other)
            if gap is None:
                continue
            name = what if other == BOTH else f"{other}, {what}"
            words = f"{abs(gap.value):.2f} {'above' if gap.value >= 0 else 'below'} {name}{_ends(gap)}"
            found.append(f"to a machine '{own}', the best loss by {under}, is {words}.")
        favoured = self.crossed[self.main].favoured
        if favoured < LEVEL:
            found.append(
                f"task seeds favour some losses in {under} (p {favoured:.3f}): its intervals are too narrow, "
                "which more task seeds mend."
            )
        return found


def _ends(gap: Estimate) -> str:
    low, high = gap.interval()
    if not isfinite(low):
        return ", with no interval: this takes two fusion seeds and two task seeds"
    shown = f" (95 % interval {low:+.2f} to {high:+.2f})"
    return shown if low > 0 or high < 0 else f"{shown}, which no test separates from 0"


def find_plain(
    sweeps: Sequence[Path], runs: Sequence[Run]
) -> tuple[dict[str, tuple[Judged, ...]], list[str]]:
    """Return `read_plain` of the sweeps; nothing where no run has downstream results."""
    return read_plain(sweeps, [run.folder for run in runs]) if any(run.judged for run in runs) else ({}, [])


def gather_seen(
    variants: Sequence[Variant], plain: Mapping[str, Sequence[Judged]]
) -> tuple[list[Seen], list[str]]:
    """Return what can be compared, and a note for each task, protocol or source that cannot.

    Every run must have the results, by one protocol, with the same settings, labels and test images. Task
    seeds are those that all runs have.

    Args:
        variants: the losses; their runs may have results.
        plain: results of the sources that no run has made.
    """
    runs = [run for variant in variants for run in variant.runs]
    found: list[Seen] = []
    notes: list[str] = []
    for task in TASKS:
        of_runs = [[each for each in run.judged if each.task == task] for run in runs]
        if not any(of_runs):
            continue
        lacking = next((run for run, own in zip(runs, of_runs, strict=True) if not own), None)
        if lacking is not None:
            notes.append(f"Left out: {task}: {lacking.folder} has no result of it, others have.")
            continue
        common, problem = _common([_groups(own) for own in of_runs])
        if problem:
            notes.append(f"Left out: {task}: {problem}.")
        for kind in common:
            groups = [_groups(own)[kind] for own in of_runs]
            seeds = [seed for seed in sorted(groups[0]) if all(seed in group for group in groups)]
            if not seeds:
                notes.append(f"Left out: {task}: the runs have no task seed of {kind[0]} in common.")
                continue
            reference = groups[0][seeds[0]]
            problem = _differs(reference, [group[seed] for group in groups for seed in seeds])
            if problem:
                notes.append(f"Left out: {task}: {problem}.")
                continue
            if any(set(group) != set(seeds) for group in groups):
                shown = ", ".join(map(str, seeds))
                notes.append(f"Of {task} by {kind[0]} the task seeds that all runs have are taken: {shown}.")
            others, left_out = _others(plain, task, kind, reference, seeds)
            notes += left_out
            found.append(_seen(variants, groups, others, seeds))
    return found, notes


Kind = tuple[str, str]  # protocol, settings


def _groups(results: Iterable[Judged]) -> dict[Kind, Group]:
    groups: dict[Kind, Group] = {}
    for each in results:
        groups.setdefault((each.protocol, each.kind), {})[each.seed] = each
    return groups


def _common(groups: Sequence[Mapping[Kind, Group]]) -> tuple[list[Kind], str | None]:
    """Return the protocols and settings that all runs have, `FIRST` before others; else what differs.

    Of one protocol the settings with the most task seeds are taken.
    """
    shared = [kind for kind in groups[0] if all(kind in each for each in groups)]
    chosen: dict[str, Kind] = {}
    for kind in sorted(shared, key=lambda kind: (-len(groups[0][kind]), kind)):
        chosen.setdefault(kind[0], kind)
    order = sorted(chosen, key=lambda protocol: (not protocol.startswith(FIRST), protocol))
    if order:
        return [chosen[protocol] for protocol in order], None
    kind, group = next(iter(groups[0].items()))
    other = next(each for each in groups if kind not in each)
    near = next((own for (protocol, _), own in other.items() if protocol == kind[0]), None)
    near = near or next(iter(other.values()))
    return [], _difference(next(iter(group.values())), next(iter(near.values())))


def _difference(one: Judged, other: Judged) -> str:
    """Return in which protocol or setting two results differ, in words."""
    folders = f"{one.folder} and {other.folder} differ in"
    if one.protocol != other.protocol:
        return f"{folders} the protocol: {one.protocol} and {other.protocol}"
    values = [leaves(each.settings, "settings") for each in (one, other)]
    for key in dict.fromkeys([*values[0], *values[1]]):
        first, second = (each.get(key, "not set") for each in values)
        if first != second:
            return f"{folders} {key}: {first} and {second}"
    return f"{folders} their settings"


def _differs(reference: Judged, others: Sequence[Judged]) -> str | None:
    """Return in which labels or images results differ from the reference, in words."""
    for other in others:
        folders = f"{reference.folder} and {other.folder} differ in"
        for name in ("names", "background", "groups"):
            first, second = getattr(reference.labels, name), getattr(other.labels, name)
            if first != second:
                return f"{folders} labels.{name}"
        if reference.scenes.keys() != other.scenes.keys():
            only = next(iter(reference.scenes.keys() ^ other.scenes.keys()))
            return f"{folders} the test images: {only} is in one alone"
        if dict(reference.scenes) != dict(other.scenes):
            return f"{folders} the scenes of the test images"
        if not _same_truth(reference, other):
            return f"{folders} what is truly on the test images"
    return None


def _same_truth(one: Judged, other: Judged) -> bool:
    order = [list(other.scenes).index(image) for image in one.scenes]
    first, second = one.evidence.truth, other.evidence.truth
    return bool(np.array_equal(first, second[order]))


def _others(
    plain: Mapping[str, Sequence[Judged]], task: str, kind: Kind, reference: Judged, seeds: Sequence[int]
) -> tuple[dict[str, Group], list[str]]:
    """Return the sources that no run has made and that compare, and a note for each that does not."""
    found: dict[str, Group] = {}
    notes = []
    for name, results in plain.items():
        own = [each for each in results if each.task == task]
        if not own or (name == BOTH and not any(each.protocol == kind[0] for each in own)):
            continue
        group = _groups(own).get(kind)
        if group is None:
            near = next((each for each in own if each.protocol == kind[0]), own[0])
            problem: str | None = _difference(reference, near)
        elif missing := [seed for seed in seeds if seed not in group]:
            problem = f"it has no result of {kind[0]}, task seed {missing[0]}"
        else:
            problem = _differs(reference, [group[seed] for seed in seeds])
        if problem is None and group is not None:
            found[name] = group
        else:
            notes.append(f"Left out: '{name}' in {task}: {problem}.")
    return found, notes


def _seen(
    variants: Sequence[Variant], groups: Sequence[Group], others: Mapping[str, Group], seeds: Sequence[int]
) -> Seen:
    reference = groups[0][seeds[0]]
    scenes = tuple(dict.fromkeys(reference.scenes.values()))
    place = iter(groups)
    rows = [[next(place) for _ in variant.runs] for variant in variants]
    rows += [[group] for group in others.values()]
    left = [[[leave_out(group[seed], scenes) for seed in seeds] for group in row] for row in rows]
    return Seen(
        task=reference.task,
        protocol=reference.protocol,
        seeds=tuple(seeds),
        rows=(*(variant.name for variant in variants), *others),
        losses=len(variants),
        images=tuple(reference.scenes),
        scenes=scenes,
        crossed=cross(left, len(variants)),
        first=[row[0][seeds[0]] for row in rows],
    )
