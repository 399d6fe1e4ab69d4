"""Run folders of any sweep, read into records."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any

import yaml

from clipfuse.comparison.files import check_scores
from clipfuse.comparison.zips import Folder, children, open_folder
from clipfuse.errors import UserError
from clipfuse.images import check_name
from clipfuse.types import SAMPLES_SEEN

Leaves = dict[str, Any]  # "loss.weight" -> value


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        folder: the folder, on the disk or in a zip.
        config: the resolved configuration, empty if none was written.
        status: "finished", "running", "failed" or "not started".
        reason: why it failed, or None.
        samples_seen: training samples seen, or None if this was not recorded.
        fit: seconds, samples, peak_memory_mb, device of the training; empty in older runs.
        scores: metric -> image -> score of the test, NaN where undefined; empty if not tested.
        scenes: image -> scene.
        curves: key of `metrics.csv` -> [(samples seen, value)].
        digested: whether `metrics.json` holds the digest of the scores, and the scores have it.
        overrides: Hydra overrides that trained it, where the sweep has recorded them.
    """

    folder: Folder
    config: Mapping[str, Any]
    status: str
    reason: str | None
    samples_seen: int | None
    fit: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, float]]
    scenes: Mapping[str, str]
    curves: Mapping[str, Sequence[tuple[float, float]]]
    digested: bool = False
    overrides: Sequence[str] | None = None

    @property
    def path(self) -> Path:
        """Path of the folder; it does not exist on the disk if the folder lies in a zip."""
        return Path(str(self.folder))

    @property
    def label(self) -> str:
        """The last two names of its path, for example "pixel/0"."""
        return "/".join(self.path.parts[-2:])

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config["seed"])

    @property
    def protocol(self) -> str:
        """Protocol of its scores, for example "strict-1"."""
        return str(self.config["protocol"])

    @property
    def split(self) -> str:
        """SHA-256 of its data split."""
        return str(self.config["split_sha256"])

    @property
    def knows_content(self) -> bool:
        """Whether `split` hashes the images and scenes, too; in older runs it hashes the names alone."""
        return "split_of" in self.config

    @property
    def budget(self) -> str:
        """Samples, batch size and crop size of the training, in words."""
        config = self.config
        batch, seen = self._batch, self.samples_seen
        samples = config["steps"] * batch if seen is None or self.status != "finished" else seen
        return f"{samples} samples, batch {batch}, crop {config['loader'].get('crop_size')}"

    @property
    def seconds(self) -> tuple[float, bool] | None:
        """Seconds of the whole training, and whether they are projected from the part after a resume."""
        if not self.fit.get("samples") or self.samples_seen is None:
            return None
        part = self.fit["samples"]
        return self.fit["seconds"] * self.samples_seen / part, part != self.samples_seen

    @property
    def _batch(self) -> int:
        """Samples per update, summed over devices."""
        if self.fit.get("updates"):
            return round(self.fit["samples"] / self.fit["updates"])
        devices = self.config.get("trainer", {}).get("devices", 1)
        batch = int(self.config["loader"]["batch_size"]) * int(self.config["accumulate"])
        return batch * (devices if isinstance(devices, int) else 1)


def find_runs(sweeps: Sequence[Path]) -> list[Run]:
    """Read every run folder at or below the folders and zips given, in the order of their paths.

    A run folder is one with a `status.json`, or a job of a `sweep.yaml` that has not started; folders inside
    one, such as its `evaluate`, are not searched. A folder whose configuration trains no loss, as that of
    `clipfuse evaluate`, is left out.

    Args:
        sweeps: folders, zips of folders, or folders in a zip ("sweep.zip/pixel").

    Raises:
        UserError: there is none, or a file in it cannot be read.
    """
    found: dict[str, tuple[Folder, list[str] | None]] = {}
    for sweep in sweeps:
        here = {str(folder): (folder, words) for folder, words in _run_folders(open_folder(sweep))}
        if not here:
            raise UserError(f"{sweep}: holds no run folder (no status.json); name the folder of a sweep")
        found |= here
    runs = [_read_run(folder, words) for folder, words in found.values()]
    return [run for run in runs if not run.config or "loss" in run.config]


def _run_folders(folder: Folder, words: list[str] | None = None) -> Iterator[tuple[Folder, list[str] | None]]:
    """Yield run folders, each with the overrides of its job where a `sweep.yaml` beside it has them."""
    if (folder / "status.json").is_file():
        yield folder, words
        return
    jobs = _sweep_jobs(folder / "sweep.yaml")
    for child in children(folder):
        if child.is_dir():
            yield from _run_folders(child, jobs.get(child.name))
    yield from ((job, words) for name, words in jobs.items() if not (job := folder / name).exists())


def _sweep_jobs(file: Folder) -> dict[str, list[str]]:
    """Return the overrides of each job by the name of its folder; empty where the file is missing or bad."""
    try:
        jobs = yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]
        return {Path(str(number)).name: [str(word) for word in words] for number, words in jobs.items()}
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _read_run(folder: Folder, overrides: list[str] | None) -> Run:
    status: dict[str, Any] = {"status": "not started"}
    if (folder / "status.json").is_file():
        status = _read(folder / "status.json", json.loads)
    config = _read(folder / "config.yaml", yaml.safe_load) if (folder / "config.yaml").is_file() else {}
    if config:
        needed = ("seed", "steps", "accumulate", "loss", "loader", "backbone", "protocol", "split_sha256")
        missing = [key for key in needed if key not in config] if "loss" in config else []
        if missing:
            raise UserError(
                f"{folder / 'config.yaml'}: has no '{missing[0]}'; an older version wrote it: train "
                "it again, or leave the folder out"
            )
    scores, scenes = _read_scores(folder / "test/per_image.csv")
    return Run(
        folder,
        config,
        str(status.get("status")),
        status.get("reason"),
        status.get("samples_seen"),
        status.get("fit") or {},
        scores,
        scenes,
        _read_curves(folder / "metrics.csv"),
        bool(scores) and check_scores(folder / "test", scores, len(scenes)),
        overrides,
    )


def file_notes(runs: Sequence[Run]) -> list[str]:
    """Return warnings about the files of the runs, one sentence each.

    They name older runs without a digest of their scores, or without a fingerprint of their data's content,
    and test images that look like video but count as independent scenes.
    """
    notes = []
    if undigested := sum(bool(run.scores) and not run.digested for run in runs):
        notes.append(
            f"{undigested} of {len(runs)} runs lack a digest of their scores: a change after the test would "
            "not be noticed."
        )
    if nameless := sum(bool(run.config) and not run.knows_content for run in runs):
        notes.append(
            f"{nameless} of {len(runs)} runs lack a fingerprint of their data's content: that they used the "
            "same images is checked by the names alone."
        )
    scenes = (run.config.get("scenes") for run in runs)
    found = (each.get("warning") for each in scenes if isinstance(each, Mapping))
    warnings = dict.fromkeys(str(warning) for warning in found if warning)
    return notes + [f"{warning[0].upper()}{warning[1:]}." for warning in warnings]


def _read(path: Folder, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot be read ({' '.join(str(error).split())}); repair it, or leave the run folder out"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping; repair it, or leave the run folder out")
    return content


def _rows(path: Folder) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    try:
        with path.open("r", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error}); repair it, or leave the run folder out") from None
    for place, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise UserError(f"{path}: line {place} is cut off or too long; leave the run folder out")
    return rows


def _number(path: Folder, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(
            f"{path}: '{text}' is no number; repair the file, or leave the run folder out"
        ) from None


def _read_scores(path: Folder) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    scores: dict[str, dict[str, float]] = {}
    scenes: dict[str, str] = {}
    for row in _rows(path):
        if "name" not in row:
            raise UserError(f"{path}: has no column 'name'; leave the run folder out")
        image = row["name"]
        check_name(image)
        scenes[image] = row.get("scene") or image
        for key, text in row.items():
            if key not in ("name", "scene", "protocol"):
                value = _number(path, text) if text else nan
                scores.setdefault(key, {})[image] = value if isfinite(value) else nan
    return scores, scenes


def _read_curves(path: Folder) -> dict[str, list[tuple[float, float]]]:
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in _rows(path):
        for key, text in row.items():
            if text and row.get(SAMPLES_SEEN) and key.startswith(("train/", "val/")):
                point = _number(path, row[SAMPLES_SEEN]), _number(path, text)
                curves.setdefault(key, []).append(point)
    return curves
