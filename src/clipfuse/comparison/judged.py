"""What task networks found on the images of a run or another source, read from its folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isclose, isnan, nan
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat

from clipfuse.comparison.evidence import TASKS, Confusions, Detections, Evidence
from clipfuse.comparison.statistics import Array
from clipfuse.comparison.zips import Folder, children, open_folder
from clipfuse.errors import UserError
from clipfuse.files import MOST_RESULTS, json_sha256, read_json
from clipfuse.images import check_name
from clipfuse.ops.expressions import LONGEST, MOST_GROUPS, quick
from clipfuse.types import LabelSet

FOLDER = "downstream"  # in a run folder, and in that of another source
PLAIN = ("infrared", "visible", "average", "maximum", "both")
SOURCES = "downstream-sources"  # in a sweep: folders of the sources that no run has made
_REMEDY = "compute it again by clipfuse downstream, or move it away"
_EQUAL = 1e-9  # of a score that was recorded to the one that its judgements give; both are float64
_MOST_CLASSES = 256

_Word = Annotated[str, Field(min_length=1, max_length=200)]
_Count = Annotated[int, Field(ge=0, lt=2**53)]
_Level = Annotated[int, Field(ge=0, le=255)]
_Number = Annotated[FiniteFloat, Field(ge=-1e9, le=1e9)]
_Expression = Annotated[str, Field(min_length=1, max_length=LONGEST)]
_Group = Annotated[list[_Expression], Field(min_length=2, max_length=2)]


class _Labels(BaseModel):
    names: Annotated[list[_Word], Field(min_length=1, max_length=_MOST_CLASSES)]
    background: Annotated[int, Field(ge=0, lt=_MOST_CLASSES)] | None = 0
    palette: list[Annotated[list[_Level], Field(min_length=3, max_length=3)]] = []
    groups: Annotated[list[_Group], Field(max_length=MOST_GROUPS)] = []
    objects: list[_Word] = []


class _Confusion(BaseModel):
    confusion: list[list[_Count]]


class _Boxes(BaseModel):
    objects: list[Annotated[list[_Number], Field(min_length=5, max_length=5)]]
    found: list[Annotated[list[_Number], Field(min_length=6, max_length=6)]]


class _Image(BaseModel):
    scene: _Word
    judgement: _Confusion | _Boxes


class _Result(BaseModel):
    protocol: _Word
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    settings: dict[str, Any]
    scores: dict[str, FiniteFloat | None]
    images: Annotated[dict[str, _Image], Field(min_length=1)]


class _Form(BaseModel):
    task: Literal["segmentation", "detection"]
    labels: _Labels
    results: list[_Result]


@dataclass(frozen=True)
class Judged:
    """What one task network found on the test images of one source.

    Attributes:
        folder: the run folder, or that of another source.
        task: "segmentation" or "detection".
        labels: of the data set.
        protocol: such as "retrained-1".
        seed: of the task network.
        settings: all that changes its scores beside the images.
        scenes: image -> scene.
        evidence: gives the scores of any of these images.
        boxes: image -> (objects, found) of a detection, as `Detections` has them; empty for others.
    """

    folder: Folder
    task: str
    labels: LabelSet
    protocol: str
    seed: int
    settings: Mapping[str, Any]
    scenes: Mapping[str, str]
    evidence: Evidence
    boxes: Mapping[str, tuple[Array, Array]]

    @cached_property
    def kind(self) -> str:
        """SHA-256 of the settings."""
        return json_sha256(dict(self.settings))


def read_judged(folder: Folder) -> tuple[Judged, ...]:
    """Return the results of all downstream tasks in a folder; none where there are none.

    Every score that a file states is computed anew from its judgements.

    Args:
        folder: a run folder, or that of another source; on the disk or in a zip.

    Raises:
        UserError: a file cannot be read, has another form, or states a score that its judgements do not give.
    """
    found = []
    for task in TASKS:
        file = folder / FOLDER / task / "metrics.json"
        content = read_json(file, _Form, default=None, within=folder, most=MOST_RESULTS, remedy=_REMEDY)
        if content is None:
            continue
        if content["task"] != task:
            raise UserError(f"{file}: task is {content['task']!r}, expected {task!r}; {_REMEDY}")
        labels = _labels(file, content["labels"])
        seen = set()
        for result in content["results"]:
            place = result["protocol"], result["seed"], json_sha256(result["settings"])
            if place in seen:
                raise UserError(f"{file}: has two results of {place[0]}, seed {place[1]}; {_REMEDY}")
            seen.add(place)
            found.append(_judged(folder, file, task, labels, result))
    return tuple(found)


def _labels(file: Folder, node: Mapping[str, Any]) -> LabelSet:
    names, background = tuple(node["names"]), node.get("background", 0)
    groups = tuple((str(name), str(expression)) for name, expression in node.get("groups", ()))
    problem = None
    if len(set(names)) < len(names):
        problem = "labels.names has one name twice"
    elif background is not None and background >= len(names):
        problem = f"labels.background is {background}, of {len(names)} classes"
    for name, expression in groups:
        if not quick(expression):
            problem = f"labels.groups.{name} is {expression[:60]!r}: no simple regular expression"
    if problem:
        raise UserError(f"{file}: {problem}; {_REMEDY}")
    palette = tuple((red, green, blue) for red, green, blue in node.get("palette", ()))
    return LabelSet(names, background, palette, groups, tuple(node.get("objects", ())))


def _judged(folder: Folder, file: Folder, task: str, labels: LabelSet, result: Mapping[str, Any]) -> Judged:
    images: Mapping[str, Mapping[str, Any]] = result["images"]
    try:
        for image in images:
            check_name(image)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    evidence: Evidence
    boxes: dict[str, tuple[Array, Array]] = {}
    if task == "segmentation":
        evidence = Confusions(labels, list(images), _counts(file, images, len(labels)))
    else:
        boxes = {name: _boxes(file, name, image, len(labels)) for name, image in images.items()}
        evidence = Detections(
            labels, list(images), [each for each, _ in boxes.values()], [each for _, each in boxes.values()]
        )
    computed = evidence.scores(np.ones((1, len(images))))
    for name, stated in result["scores"].items():
        value = float(computed[name][0]) if name in computed else None
        if value is not None and not _same(nan if stated is None else stated, value):
            raise UserError(
                f"{file} was changed: it states {name} {stated}, its judgements of {result['protocol']}, "
                f"seed {result['seed']}, give {value}; {_REMEDY}"
            )
    scenes = {name: image["scene"] for name, image in images.items()}
    known = result["protocol"], result["seed"], result["settings"]
    return Judged(folder, task, labels, *known, scenes, evidence, boxes)


def _same(stated: float, value: float) -> bool:
    if isnan(stated) or isnan(value):
        return isnan(stated) and isnan(value)
    return isclose(stated, value, rel_tol=_EQUAL, abs_tol=_EQUAL)


def _counts(file: Folder, images: Mapping[str, Mapping[str, Any]], classes: int) -> Array:
    found = []
    for name, image in images.items():
        rows = image["judgement"].get("confusion")
        if rows is None or len(rows) != classes or any(len(row) != classes for row in rows):
            raise UserError(f"{file}: the confusion of {name} is not {classes} x {classes}; {_REMEDY}")
        found.append(rows)
    return np.array(found, dtype=np.float64)


def _boxes(file: Folder, name: str, image: Mapping[str, Any], classes: int) -> tuple[Array, Array]:
    judgement = image["judgement"]
    if "found" not in judgement:
        raise UserError(f"{file}: {name} has no boxes; {_REMEDY}")
    objects = np.array(judgement["objects"], dtype=np.float64).reshape(-1, 5)
    found = np.array(judgement["found"], dtype=np.float64).reshape(-1, 6)
    for rows in (objects, found):
        if not np.isin(rows[:, -1], np.arange(classes)).all():
            raise UserError(f"{file}: a box of {name} has a class that is not 0 to {classes - 1}; {_REMEDY}")
    return objects, found


def read_plain(
    sweeps: Sequence[Path], runs: Sequence[Folder]
) -> tuple[dict[str, tuple[Judged, ...]], list[str]]:
    """Return the results of the sources that no run has made, and a line for each that cannot be read.

    They lie in `SOURCES` of a sweep: in a folder or zip that was named, in one between it and a run, or
    beside a run folder that was named itself.

    Args:
        sweeps: the folders and zips that were named.
        runs: the run folders in them.

    Returns:
        Name -> results; `PLAIN` first, in this order. Of two sources of one name the first is taken.
    """
    found: dict[str, tuple[Judged, ...]] = {}
    notes = []
    for root in _places(sweeps, runs):
        try:
            place = root / SOURCES
            below = [each for each in children(place) if each.is_dir()] if place.is_dir() else []
        except OSError as error:
            notes.append(f"Left out: {root / SOURCES} cannot be searched ({error.strerror or error}).")
            continue
        for folder in below:
            name = PurePath(str(folder)).name
            try:
                check_name(name)
                if name not in found and (results := read_judged(folder)):
                    found[name] = results
            except UserError as error:
                notes.append(f"Left out: {error}.")
    order = [name for name in PLAIN if name in found]
    return {name: found[name] for name in (*order, *sorted(found.keys() - {*order}))}, notes


def _places(sweeps: Sequence[Path], runs: Sequence[Folder]) -> list[Folder]:
    known = {str(run) for run in runs}
    places: dict[str, Folder] = {}
    for sweep in sweeps:
        root = open_folder(sweep)
        if str(root) in known and isinstance(root, Path):
            places.setdefault(str(root.parent), root.parent)
        for run in known:
            if not PurePath(run).is_relative_to(str(root)):
                continue
            folder = root
            places.setdefault(str(folder), folder)
            for part in PurePath(run).relative_to(str(root)).parts:
                folder = folder / part
                places.setdefault(str(folder), folder)
    return [places[name] for name in sorted(places)]
