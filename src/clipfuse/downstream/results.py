"""What a task found on the images of a source: `downstream/TASK/metrics.json`, from which scores follow.

The file holds the judgement of every image, not scores alone, so that another score, another grouping of the
images or an interval over scenes needs no further training. Own design: papers print one mean.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite, nan
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import Tensor

from clipfuse.downstream.base import Judgement
from clipfuse.errors import UserError
from clipfuse.files import MOST_RESULTS, json_sha256, read_json, write_atomically
from clipfuse.images import read_image, write_png
from clipfuse.types import LabelSet

KEPT = 8  # images whose map of classes that was found is kept
_REMEDY = "move it away, and it is computed again"


@dataclass(frozen=True)
class Result:
    """One training of a task network, and what it found on the test images.

    Attributes:
        protocol: such as "retrained-1".
        seed: of the task network, not of the fusion network.
        key: SHA-256 of all that decides the numbers, as `result_key`.
        settings: those of the task, the input, and the versions of libraries.
        train_sha256: digest of the training images with their labels.
        test_sha256: the same of the test images.
        seconds: that training and judging took.
        scores: by name, 0..100; NaN where one is not defined.
        images: by sample id {"scene": its scene, "judgement": see `clipfuse.downstream.base.Judgement`}.
        origin: SHA-256 of what the images are made of: where it is the same, they need not be made again.
        curve: mean loss of each equal part of the training; empty of a network from a file.
    """

    protocol: str
    seed: int
    key: str
    settings: Mapping[str, Any]
    train_sha256: str
    test_sha256: str
    seconds: float
    scores: Mapping[str, float]
    images: Mapping[str, Mapping[str, Any]]
    origin: str = ""
    curve: Sequence[float] = ()

    @property
    def place(self) -> tuple[str, int, str]:
        """What it is the result of; a file holds one for each."""
        return self.protocol, self.seed, json_sha256(self.settings)


class _Labels(BaseModel):
    names: list[str]
    background: int | None = 0
    palette: list[list[int]] = []
    groups: list[list[str]] = []


class _Image(BaseModel):
    scene: str
    judgement: dict[str, Any]


class _Result(BaseModel):
    protocol: str
    seed: int
    key: str
    settings: dict[str, Any]
    train_sha256: str
    test_sha256: str
    seconds: float
    scores: dict[str, float | None]
    images: dict[str, _Image]
    origin: str = ""
    curve: list[float] = []


class _Form(BaseModel):
    task: str
    labels: _Labels
    results: list[_Result]


def results_file(folder: Path, task: str) -> Path:
    """Return the file of a task's results below a run folder or the folder of another source."""
    return folder / "downstream" / task / "metrics.json"


def result_key(
    task: str,
    labels: LabelSet,
    protocol: str,
    settings: Mapping[str, Any],
    seed: int,
    train_sha256: str,
    test_sha256: str,
) -> str:
    """Return the SHA-256 of everything that decides a result; two results of one key are the same."""
    parts = {"task": task, "labels": asdict(labels), "protocol": protocol, "settings": dict(settings)}
    return json_sha256({**parts, "seed": seed, "train": train_sha256, "test": test_sha256})


def read_results(folder: Any, task: str) -> tuple[LabelSet, list[Result]] | None:
    """Return the labels and the results of a task; None where there are none.

    Args:
        folder: a `pathlib.Path`, or a folder in a zip with its methods.
        task: such as "segmentation".

    Raises:
        UserError: the file cannot be read, or is of another task or form.
    """
    path = results_file(folder, task)
    content = read_json(path, _Form, default=None, most=MOST_RESULTS, remedy=_REMEDY)
    if content is None:
        return None
    if content["task"] != task:
        raise UserError(f"{path}: its task is {content['task']!r}, expected {task!r}; {_REMEDY}")
    node = content["labels"]
    palette = tuple((int(r), int(g), int(b)) for r, g, b in node.get("palette", ()))
    groups = tuple((str(name), str(expression)) for name, expression in node.get("groups", ()))
    objects = tuple(str(name) for name in node.get("objects", ()))
    labels = LabelSet(tuple(node["names"]), node.get("background", 0), palette, groups, objects)
    results = []
    for each in content["results"]:
        scores = {name: nan if value is None else float(value) for name, value in each["scores"].items()}
        fields = {name: each[name] for name in _Result.model_fields if name in each}
        results.append(Result(**{**fields, "scores": scores, "curve": tuple(fields.get("curve", ()))}))
    return labels, results


def add_result(folder: Path, task: str, labels: LabelSet, result: Result, overwrite: bool = False) -> None:
    """Write a result beside the others of its folder, in place of one with its protocol, seed and settings.

    Args:
        folder: of the source; whoever calls this owns it.
        task: such as "segmentation".
        labels: of the data.
        result: what was computed.
        overwrite: whether results for other labels may be replaced.

    Raises:
        UserError: the file holds results for other labels, or cannot be read or written.
    """
    kept = [each for each in known_results(folder, task, labels, overwrite) if each.place != result.place]
    content = {
        "task": task,
        "labels": {"names": labels.names, "background": labels.background}
        | {"palette": labels.palette, "groups": labels.groups, "objects": labels.objects},
        "results": [_plain(each) for each in [*kept, result]],
    }
    with write_atomically(results_file(folder, task)) as file:
        json.dump(content, file, allow_nan=False)
        file.write("\n")


def known_results(folder: Path, task: str, labels: LabelSet, overwrite: bool = False) -> list[Result]:
    """Return the results of a folder that are for these labels.

    Raises:
        UserError: it holds results for others, and they may not be replaced; or its file cannot be read.
    """
    found = read_results(folder, task)
    if found is None:
        return []
    before, results = found
    if before != labels and not overwrite:
        what = "classes" if before.names != labels.names else "settings of data.labels"
        raise UserError(
            f"{results_file(folder, task)} holds results for other {what} "
            f"({', '.join(before.names[:4])}, ...); move it away, or replace it by overwrite=true"
        )
    return results if before == labels else []


def _plain(result: Result) -> dict[str, Any]:
    scores = {name: value if isfinite(value) else None for name, value in result.scores.items()}
    return {
        **vars(result),
        "settings": dict(result.settings),
        "scores": scores,
        "images": dict(result.images),
    }


def with_origin(result: Result, origin: str) -> Result:
    """Return a result for images that have turned out to be the same."""
    return replace(result, origin=origin)


def record_of(judgement: Judgement) -> dict[str, Any]:
    """Return what is kept of a judgement: all but its map."""
    return {name: value for name, value in judgement.items() if name != "map"}


def predicted_file(
    folder: Path, task: str, protocol: str, seed: int, settings: Mapping[str, Any], image: str
) -> Path:
    """Return the file of the map of classes that was found on an image: an index PNG.

    Its folder has the first digits of the settings' digest, as `metrics.json` holds results of several.
    """
    kind = f"{protocol}-{seed}-{json_sha256(dict(settings))[:8]}"
    return results_file(folder, task).parent / "predicted" / kind / f"{image}.png"


def write_predicted(path: Path, found: Tensor) -> None:
    """Write a map of classes, (H, W) uint8, as a gray PNG whose values are the classes."""
    write_png(path, found[None].double() / 255, overwrite=True)


def shown_judgements(folder: Path, task: str, result: Result) -> dict[str, dict[str, Any]]:
    """Return the judgements of the first images, each with its map where one was kept.

    Raises:
        UserError: a map cannot be read.
    """
    shown = {}
    for image in list(result.images)[:KEPT]:
        judgement = dict(result.images[image]["judgement"])
        path = predicted_file(folder, task, result.protocol, result.seed, result.settings, image)
        if path.is_file():
            judgement["map"] = read_image(path)[0]
        shown[image] = judgement
    return shown
