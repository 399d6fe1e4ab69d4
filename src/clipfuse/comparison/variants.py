"""Runs grouped into variants: a variant is a loss with one choice of settings."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from clipfuse.comparison.collect import SPOILED, Leaves, Run
from clipfuse.errors import UserError
from clipfuse.ops.settings import plugin_name
from clipfuse.runs.contract import HARMLESS, decide, flatten


@dataclass(frozen=True)
class Variant:
    """A loss with one choice of settings, trained with one or more seeds; a row of the table.

    Attributes:
        name: name of the loss, and the settings in which it differs from other variants of this loss.
        runs: its runs, ordered by seed.
        settings: the flattened configuration that its runs share.
    """

    name: str
    runs: tuple[Run, ...]
    settings: Leaves


def settings(run: Run) -> Leaves:
    """Return the settings that all runs of a variant share: all but those the contract lists as harmless.

    Package versions are left out, too: if they may differ, seeds that were added later join their row.
    """
    plain = flatten(run.config)
    return {key: value for key, value in plain.items() if decide(key).compare not in (HARMLESS, "versions")}


def group(runs: Iterable[Run]) -> list[Variant]:
    """Group runs that differ in their seed alone into variants, and name variants by their differences.

    Of a finished and an unfinished run with one variant and seed the finished one is taken.

    Raises:
        UserError: two finished runs of one variant have one seed.
    """
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.status != "finished"):
        groups.setdefault(json.dumps(settings(run), sort_keys=True, default=str), []).append(run)
    members = []
    for same in groups.values():
        seeds: dict[int, Run] = {}
        members.append(seeds)
        for run in same:
            other = seeds.setdefault(run.seed, run)
            if other is not run and run.status == "finished":
                raise UserError(
                    f"{other.folder} and {run.folder} are one variant with one seed ({run.seed}); to count "
                    "both would feign certainty: leave one out"
                )
    all_settings = [settings(same[0]) for same in groups.values()]
    return [
        Variant(name, tuple(seeds[seed] for seed in sorted(seeds)), each)
        for name, seeds, each in zip(_names(all_settings), members, all_settings, strict=True)
    ]


def _names(all_settings: Sequence[Leaves]) -> list[str]:
    targets = [str(each["loss._target_"]) for each in all_settings]
    stems = Counter(plugin_name(target) for target in dict.fromkeys(targets))
    losses = [plugin_name(target, several=stems[plugin_name(target)] > 1) for target in targets]
    names = []
    for loss, own in zip(losses, all_settings, strict=True):
        others = [each for other, each in zip(losses, all_settings, strict=True) if other == loss]
        names.append(" ".join([loss, *_difference(own, others)]))
    return [
        name if names.count(name) == 1 else f"{name} #{names[: index + 1].count(name)}"
        for index, name in enumerate(names)
    ]


def _difference(own: Leaves, others: Sequence[Leaves]) -> list[str]:
    """Return words such as "solver=alternate" in which a variant differs from the others of its loss.

    Values shared by the majority are not shown; nor are arguments of a class that only this variant uses.
    """
    words = []
    for key, value in own.items():
        found = [str(each.get(key)) for each in others if _classes(each, key) == _classes(own, key)]
        usual, times = Counter(found).most_common(1)[0]
        if len(set(found)) > 1 and (times * 2 <= len(found) or str(value) != usual):
            words.append(f"{_short(key)}={_value(key, value)}")
    return words


def _classes(settings: Leaves, key: str) -> list[Any]:
    """Return the classes around the argument `key`, outermost first."""
    owners = key.removesuffix("._target_").split(".")[:-1]
    return [settings.get(f"{'.'.join(owners[: depth + 1])}._target_") for depth in range(len(owners))]


def _short(key: str) -> str:
    return key.removeprefix("loss.").removesuffix("._target_")


def _value(key: str, value: Any) -> str:
    text = "null" if value is None else " ".join(str(value).split())
    if key.endswith("_target_"):  # the option's name: value_penalty for clipfuse.bilevel.ValuePenalty
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text.rpartition(".")[2]).lower()
    return text if len(text) <= 24 else f"{text[:8]}…"


def printable(text: str) -> str:
    """Return a stranger's text without characters that would move a cursor; line breaks are kept."""
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in text)


def select(runs: Iterable[Run], partial: bool) -> tuple[list[Run], list[str]]:
    """Return the runs that are compared, and a line for each that is left out or taken unfinished."""
    taken, notes = [], []
    for run in runs:
        state = (
            run.status if run.reason is None else f"{run.status}: {printable(' '.join(run.reason.split()))}"
        )
        if run.status == "finished" and run.scores:
            taken.append(run)
            if run.reason is not None:
                notes.append(f"Taken: {run.folder} ({printable(' '.join(run.reason.split()))}).")
        elif run.status == SPOILED:
            notes.append(f"Left out: {printable(run.reason or '')}.")
        elif run.status == "finished":
            notes.append(f"Left out: {run.folder} (finished without a test).")
        elif partial and run.config and (run.scores or run.curves):
            taken.append(run)
            scores = "with" if run.scores else "without"
            notes.append(f"Taken so far: {run.folder} ({state}), {scores} scores.")
        else:
            notes.append(f"Left out: {run.folder} ({state}).")
    return taken, notes
