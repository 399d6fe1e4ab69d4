"""Whether runs can be compared fairly: they must agree in what `clipfuse.runs.contract` lists."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clipfuse.comparison.collect import Leaves, Run
from clipfuse.comparison.variants import group
from clipfuse.errors import UserError
from clipfuse.runs.contract import KINDS, Tuning, decide, earlier_edition, flatten, read_tuning

# kind -> key -> [(value in words, the runs that have it)], two values or more
Differences = dict[str, dict[str, list[tuple[str, list[Run]]]]]

_GIVEN = "budget"  # of the finished training, which a time limit may have stopped
_ASKED = {"steps", "loader.batch_size", "loader.crop_size"}  # the settings of the budget
_SHOWN = 6


def check_mixing(runs: Sequence[Run], allowed: Sequence[str]) -> list[str]:
    """Refuse runs that cannot be compared fairly.

    They may differ in their loss, its solver, their seed, and in what the contract lists as harmless. If all
    declare the same `tuning` of a setting of the optimiser, they may differ in this setting, too.

    Args:
        runs: the runs of one comparison.
        allowed: kinds of `clipfuse.runs.contract.KINDS` in which the runs may differ, with a warning.

    Returns:
        A warning for each kind in which the runs differ; then notes about a setting that was tuned, several
        devices, several commits of the code.

    Raises:
        UserError: runs differ in a kind that is not allowed; names the first key, two runs and their values.
            Or a run's value is not in the grid that it declares.
    """
    differences = _differences(runs)
    notes = _tuned(runs, differences)
    if refused := [kind for kind in KINDS if kind in differences and kind not in allowed]:
        raise _refusal(refused, differences, allowed)
    mixed = [kind for kind in KINDS if kind in differences]
    return [
        *(_warning(kind, differences[kind]) for kind in mixed),
        *notes,
        *_conditions(runs),
        *_commits(runs),
    ]


def _differences(runs: Sequence[Run]) -> Differences:
    facts: list[Leaves] = [{**flatten(run.config), _GIVEN: run.budget} for run in runs]
    found: Differences = {}
    for key in dict.fromkeys(key for each in facts for key in each):
        rule = decide(key)
        kind = _GIVEN if key == _GIVEN else rule.compare
        if kind not in KINDS or (key == _GIVEN and _ASKED & found.get(_GIVEN, {}).keys()):
            continue
        values: list[tuple[Any, list[Run]]] = []
        for run, each in zip(runs, facts, strict=True):
            if rule.shared and key not in each:
                continue
            value = (each[key],) if key in each else ()
            same = next((members for other, members in values if other == value), None)
            if same is None:
                values.append((value, [run]))
            else:
                same.append(run)
        if len(values) > 1:
            found.setdefault(kind, {})[key] = [(_words(value), members) for value, members in values]
    return found


def _words(value: tuple[Any, ...]) -> str:
    if not value:
        return "not set"
    text = "null" if value[0] is None else " ".join(str(value[0]).split())
    return text if len(text) <= 72 else f"{text[:69]}..."


def _refusal(refused: Sequence[str], differences: Differences, allowed: Sequence[str]) -> UserError:
    kind = refused[0]
    key, ((first, one), (second, other), *_) = next(iter(differences[kind].items()))
    rest = f" (and in {', '.join(refused[1:])})" if refused[1:] else ""
    tune = (
        "; a rate that was tuned for all by one rule is declared as tuning" if key == "optimizer.lr" else ""
    )
    for edition in (earlier_edition(run.config) for run in (one[0], other[0]) if kind == "clip"):
        tune = tune or (edition and f"; clip={edition} trains by the earlier edition of clip=micro") or ""
    return UserError(
        f"the runs differ in {kind}: {one[0].folder} has {key}={first}, {other[0].folder} has {key}={second}"
        f"{rest}; such numbers do not compare: give runs of one {kind}, or add --mix "
        f"{','.join([*allowed, *refused])} to be warned only{tune}"
    )


def _warning(kind: str, keys: Mapping[str, list[tuple[str, list[Run]]]]) -> str:
    parts = []
    for key, values in list(keys.items())[:_SHOWN]:
        each = (f"{value} ({_those(members)})" for value, members in values)
        parts.append(f"{key} is {' or '.join(each)}")
    more = [f"and {len(keys) - _SHOWN} more settings"] if len(keys) > _SHOWN else []
    return f"The runs differ in {kind}, so this comparison is not fair: {'; '.join([*parts, *more])}."


def _those(runs: Sequence[Run]) -> str:
    first = runs[0].label
    return first if len(runs) == 1 else f"{len(runs)} runs, as {first}"


def _tuned(runs: Sequence[Run], differences: Differences) -> list[str]:
    """Remove a setting that all runs tuned by one rule from the differences; return a note about it."""
    declared: list[Tuning | None] = [
        read_tuning(run.config, f"{run.folder / 'config.yaml'}: ") for run in runs
    ]
    tuning = declared[0] if declared else None
    if tuning is None or "tuning" in differences:
        return []
    chosen: dict[Any, list[str]] = {}
    losses: list[Leaves] = []
    for variant in group(runs):
        untuned = {key: value for key, value in variant.settings.items() if key != tuning.key}
        if untuned in losses:
            return []  # one loss at several values: trials, of which none has been chosen yet
        losses.append(untuned)
        chosen.setdefault(variant.settings[tuning.key], []).append(variant.name)
    if optimizer := differences.pop("optimizer", {}):
        optimizer.pop(tuning.key, None)
        differences |= {"optimizer": optimizer} if optimizer else {}
    found = ", ".join(f"{value} ({', '.join(names)})" for value, names in chosen.items())
    grid = ", ".join(map(str, tuning.grid))
    return [
        f"{tuning.key} was tuned per loss by one rule ({tuning.rule}; of {grid}; {tuning.trials}): {found}."
    ]


def _conditions(runs: Sequence[Run]) -> list[str]:
    """Return notes about devices and numbers of threads, which change times and last digits."""
    devices = sorted({str(run.fit["device"]) for run in runs if run.fit.get("device")})
    threads = sorted({run.config["threads"] for run in runs if isinstance(run.config.get("threads"), int)})
    notes = []
    if len(devices) > 1:
        notes.append(
            f"The runs were trained on several devices ({', '.join(devices)}): their times do not compare."
        )
    if len(threads) > 1:
        notes.append(
            f"The runs were trained with {', '.join(map(str, threads[:-1]))} and {threads[-1]} threads: "
            "their times do not compare, and equal seeds differ in their last digits."
        )
    return notes


def _commits(runs: Iterable[Run]) -> list[str]:
    found = sorted({str(run.config.get("versions", {}).get("git_commit") or "unknown") for run in runs})
    if len(found) < 2:
        return []
    short = ", ".join(each[:10] + ("-dirty" if each.endswith("-dirty") else "") for each in found)
    return [f"The runs come from {len(found)} states of the code, by git: {short}."]
