"""What a reader must know before the numbers: data, split, scenes, CLIP, protocol, seeds, versions, date."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

from clipfuse.comparison.collect import Run
from clipfuse.comparison.machine import Seen
from clipfuse.comparison.table import Table
from clipfuse.comparison.variants import Variant
from clipfuse.ops.settings import plugin_name

STAND_IN = "a stand-in, not OpenAI's CLIP"


def facts(table: Table, variants: Sequence[Variant]) -> dict[str, str]:
    """Return the facts of a comparison by their names, in the order in which they are shown.

    Where the runs differ in one, each value is followed by the losses that have it.

    Args:
        table: the comparison.
        variants: the losses; runs without scores are left out.
    """
    tested = [(variant.name, [run for run in variant.runs if run.scores]) for variant in variants]
    losses = {name: runs for name, runs in tested if runs}
    return {
        "data": _each(losses, _data),
        "split": _each(losses, _split),
        "scenes": f"{len(table.images)} test images of {table.scenes} scenes",
        "CLIP": _each(losses, _clip),
        "protocol": f"{table.protocol}, ranked by {table.verdict_set}",
        **{f"{each.task} by {each.protocol}": _seen(each) for each in table.seen},
        "seeds": _grouped({name: [_seeds(runs)] for name, runs in losses.items()}),
        "versions": _each(losses, _versions),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }


def _seen(seen: Seen) -> str:
    seeds = ", ".join(map(str, seen.seeds))
    images = f"{len(seen.images)} test images of {len(seen.scenes)} scenes"
    return f"task seeds {seeds}, {images}, {len(seen.labels)} classes"


def _each(losses: Mapping[str, Sequence[Run]], of_run: Callable[[Run], str]) -> str:
    return _grouped({name: list(dict.fromkeys(map(of_run, runs))) for name, runs in losses.items()})


def _grouped(values: Mapping[str, Sequence[str]]) -> str:
    """Return the one value of all losses, or each value with the losses that have it."""
    found: dict[str, list[str]] = {}
    for name, own in values.items():
        for value in own:
            found.setdefault(value, []).append(name)
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{value} ({', '.join(names)})" for value, names in found.items())


def _data(run: Run) -> str:
    data = run.config.get("data") or {}
    kind = plugin_name(str(data.get("_target_", "unknown")))
    if kind == "source":  # clipfuse.data.synthetic.source
        kind = "synthetic"
    name = str(data.get("name") or kind)
    root = data.get("root")
    return f"{name} in {PurePath(str(root)).name}" if root and PurePath(str(root)).name != name else name


def _split(run: Run) -> str:
    split = (run.config.get("data") or {}).get("split")
    named = f"{PurePath(str(split)).name}, " if split else ""
    return f"{named}fingerprint {run.split[:12]}"


def _clip(run: Run) -> str:
    known = run.config.get("clip_identity")
    clips = known if isinstance(known, list) else [known] if known else []
    return " and ".join(map(_clip_name, clips)) or "none"


def _clip_name(identity: Mapping[str, Any]) -> str:
    words = [
        str(identity[key]) for key in ("model", "pretrained", "version") if identity.get(key) is not None
    ]
    if "_".join(words[::2]) == identity.get("pretrained"):  # an edition of the bundled CLIP, micro_1
        del words[1]
    name = " ".join(words) or "unknown"
    return f"{name} ({STAND_IN})" if identity.get("model") == "micro" else name


def _seeds(runs: Sequence[Run]) -> str:
    return ", ".join(str(run.seed) for run in runs)


def _versions(run: Run) -> str:
    versions = run.config.get("versions") or {}
    known = [f"{name} {versions[name]}" for name in ("clipfuse", "torch") if versions.get(name)]
    commit = str(versions.get("git_commit") or "")
    known += [f"commit {commit[:10]}{'-dirty' if commit.endswith('-dirty') else ''}"] if commit else []
    return ", ".join(known) or "unknown"
