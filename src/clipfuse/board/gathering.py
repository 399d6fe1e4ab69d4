"""What a folder holds for the board: results of `clipfuse score`, run folders, and downstream results."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipfuse.board.reading import DEGRADATION, read_entries
from clipfuse.board.results import Entry, Pair
from clipfuse.comparison.collect import Run, file_notes, find_runs
from clipfuse.comparison.compute import without_repeats
from clipfuse.comparison.fairness import check_mixing
from clipfuse.comparison.judged import FOLDER, Judged, read_judged
from clipfuse.comparison.machine import Seen, gather_seen
from clipfuse.comparison.variants import Variant, group, select
from clipfuse.errors import UserError
from clipfuse.metrics import DEFINITIONS

IMAGES = "images"  # a folder of images to show: images/SET/METHOD/NAME.png
_STATUS = "status.json"
_DEEPEST = 12


@dataclass(frozen=True)
class Found:
    """All that was found.

    Attributes:
        entries: the results.
        seen: downstream results that compare with each other, by task, protocol and images.
        images: folders of images to show, each with a folder for each set.
        notes: what is left out, in lines.
    """

    entries: Sequence[Entry]
    seen: Sequence[Seen] = ()
    images: Sequence[Path] = ()
    notes: Sequence[str] = field(default_factory=list)


def gather(places: Sequence[Path]) -> Found:
    """Read all results in and below folders, or in files.

    Every `.json` file is a result of `clipfuse score`, but in run folders, in folders of images and of
    downstream results, and the record of `clipfuse degrade`. A run folder is a method with its own images, so
    that runs make tables of their own. A folder `downstream` in another folder holds results of the method
    that this folder is named by.

    Args:
        places: folders, files of results, and zips of run folders.

    Raises:
        UserError: a file is no result, a folder cannot be read, or there is nothing in all of them.
    """
    files, roots, judged, images = [], [], dict[str, Path](), []
    for place in places:
        if place.suffix == ".zip":
            roots.append(place)
        elif not place.is_dir():
            files.append(place)
        else:
            for kind, path in _look(place, 0):
                if kind == "result":
                    files.append(path)
                elif kind == "run":
                    roots.append(path)
                elif kind == IMAGES:
                    images.append(path)
                elif (other := judged.setdefault(path.name, path)) != path:
                    raise UserError(
                        f"{other} and {path} both hold downstream results of {path.name!r}; rename one folder"
                    )
    entries = [entry for file in dict.fromkeys(files) for entry in read_entries(file)]
    runs, notes = select(find_runs(roots), partial=False) if roots else ([], [])
    variants, repeats = without_repeats(group(runs))
    notes = [*notes, *repeats, *_unlike(variants)]
    entries += _of_runs(variants)
    sources = {name: read_judged(path) for name, path in judged.items()}
    seen, more = _seen([*variants, *(_judged(name, sources[name], judged[name]) for name in judged)])
    if not entries and not seen:
        where = ", ".join(map(str, places))
        raise UserError(
            f"{where}: holds no result; expected files of clipfuse score --json, run folders with a test, or "
            "folders with downstream results"
        )
    return Found(entries, seen, images, [*notes, *more])


def _look(folder: Path, depth: int) -> Iterator[tuple[str, Path]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); leave it out") from None
    names = {entry.name for entry in entries}
    if _STATUS in names:
        yield "run", folder
        return
    if FOLDER in names and (folder / FOLDER).is_dir():
        yield FOLDER, folder
    for entry in entries:
        path = folder / entry.name
        if entry.name[0] == ".":
            continue
        if entry.is_dir(follow_symlinks=False):
            if entry.name == IMAGES:
                yield IMAGES, path
            elif entry.name != FOLDER and depth < _DEEPEST:
                yield from _look(path, depth + 1)
        elif entry.name.endswith(".json") and entry.name != DEGRADATION:
            yield "result", path


def _by_split(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """Return runs by their data split and protocol: what makes a table."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.split, run.protocol), []).append(run)
    return found


def _of_runs(variants: Sequence[Variant]) -> list[Entry]:
    """Return the tested runs as methods, on a set for each data split."""
    found = []
    for variant in variants:
        for (split, protocol), same in _by_split(variant.runs).items():
            data = same[0].config.get("data")
            name = data.get("name") if isinstance(data, Mapping) else None
            target = str(data.get("_target_", "")) if isinstance(data, Mapping) else ""
            title = str(name or target.rpartition(".")[2] or "data")[:60]
            metrics = [
                each
                for each in same[0].scores
                if each in DEFINITIONS and all(each in run.scores for run in same)
            ]
            images = [image for image in same[0].scenes if all(image in run.scenes for run in same)]
            found.append(
                Entry(
                    method=variant.name,
                    set=f"{title}, test part of split {split[:8]}",
                    protocol=protocol,
                    pairs={image: Pair(same[0].scenes[image], f"split {split} {image}") for image in images},
                    runs=[{each: run.scores[each] for each in metrics} for run in same],
                    metrics={each: DEFINITIONS[each].higher_is_better for each in metrics},
                    source=str(same[0].folder),
                    scenes_from="run folder",
                )
            )
    return found


def _unlike(variants: Sequence[Variant]) -> list[str]:
    """Warn of run folders of one data split that `clipfuse compare` would not compare, and of their files."""
    notes = []
    for runs in _by_split(run for variant in variants for run in variant.runs).values():
        notes += file_notes(runs)
        try:
            check_mixing(runs, [])
        except UserError as error:
            notes.append(f"Run folders of one table are no fair comparison: {error}")
    return notes


def _judged(name: str, results: Sequence[Judged], folder: Path) -> Variant:
    run = Run(folder, {}, "finished", None, None, {}, {}, {}, {}, judged=results)
    return Variant(name, (run,), {})


def _seen(variants: Sequence[Variant]) -> tuple[list[Seen], list[str]]:
    """Return what task networks found, methods of one task, protocol, settings and images together."""
    groups: dict[tuple[Any, ...], list[Variant]] = {}
    for variant in variants:
        kinds = [{_kind(each) for each in run.judged} for run in variant.runs]
        for kind in sorted(set.intersection(*kinds) if kinds else ()):
            runs = []
            for run in variant.runs:
                same = tuple(each for each in run.judged if _kind(each) == kind)
                runs.append(Run(**{**vars(run), "judged": same}))
            groups.setdefault(kind, []).append(Variant(variant.name, tuple(runs), variant.settings))
    seen: list[Seen] = []
    notes: list[str] = []
    for together in groups.values():
        found, more = gather_seen(together, {})
        seen += found
        notes += more
    return seen, notes


def _kind(judged: Judged) -> tuple[str, ...]:
    images = "\n".join(f"{name}\t{scene}" for name, scene in sorted(judged.scenes.items()))
    return judged.task, judged.protocol, judged.kind, images
