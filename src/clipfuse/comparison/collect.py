"""Run folders of any sweep, read into records."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any

from clipfuse.comparison.files import Config, Status, SweepRecord, check_scores
from clipfuse.comparison.judged import Judged, read_judged
from clipfuse.comparison.zips import Folder, children, leads_out, open_folder
from clipfuse.errors import UserError
from clipfuse.files import check_form, is_there, read_csv, read_json, read_yaml
from clipfuse.images import check_name
from clipfuse.runs.contract import read_tuning
from clipfuse.runs.folder import has_ended
from clipfuse.types import SAMPLES_SEEN

Leaves = dict[str, Any]  # "loss.weight" -> value
SPOILED = "spoiled"  # status of a run with a file that cannot be read or was changed
_REMEDY = "restore the file, or leave the run folder out"
_LARGEST = 1e100  # of a number that is averaged or drawn


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        folder: the folder, on the disk or in a zip.
        config: the resolved configuration, empty if none was written.
        status: "finished", "running", "failed", "not started" or `SPOILED`.
        reason: why it failed or cannot be read, or None.
        samples_seen: training samples seen, or None if this was not recorded.
        fit: seconds, samples, peak_memory_mb, device of the training; empty in older runs.
        scores: metric -> image -> score of the test, NaN where undefined; empty if not tested.
        scenes: image -> scene.
        curves: key of `metrics.csv` -> [(samples seen, value)].
        digested: whether `metrics.json` holds the digest of the scores, and the scores have it.
        overrides: Hydra overrides that trained it, where the sweep has recorded them.
        judged: what task networks found on its test images.
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
    judged: Sequence[Judged] = ()

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


def find_runs(sweeps: Sequence[Path], judged: bool = True) -> list[Run]:
    """Read every run folder at or below the folders and zips given, in the order of their paths.

    A run folder is one with a `status.json`, or a job of a `sweep.yaml` that has not started; folders inside
    one, such as its `evaluate`, are not searched. A folder whose configuration trains no loss, as that of
    `clipfuse evaluate`, is left out. Every folder is searched once, whatever links lead to it.

    Args:
        sweeps: folders, zips of folders, or folders in a zip ("sweep.zip/pixel").
        judged: whether what task networks found is read as well, and its scores computed anew.

    Returns:
        The runs. One with a spoiled file, or behind a link that leads out of the folder given, has the status
        `SPOILED` and the reason, and nothing else.

    Raises:
        UserError: there is no run, or all are spoiled; gives the reason of the first.
    """
    found: dict[str, Run] = {}
    for sweep in sweeps:
        root = open_folder(sweep)
        here = {str(run.folder): run for run in _runs_below(root, root, set(), judged)}
        if not here:
            raise UserError(f"{sweep}: holds no run folder (no status.json); name the folder of a sweep")
        found |= here
    runs = _without_cut_ones([run for run in found.values() if not run.config or _trains(run.config)])
    spoiled = [run for run in runs if run.status == SPOILED]
    if spoiled and all(run.status in (SPOILED, "not started") for run in runs):
        raise UserError(spoiled[0].reason or "")
    return runs


def _runs_below(
    folder: Folder, root: Folder, searched: set[Path], judged: bool, words: list[str] | None = None
) -> Iterator[Run]:
    """Yield runs, each with the overrides of its job where a `sweep.yaml` beside it has them."""
    try:
        check_name(folder.name or "zip")
        if isinstance(folder, Path):
            if leads_out(folder, root):
                raise UserError(
                    f"{folder} is a link that leads out of {root}; name its target to compare it as well"
                )
            if (place := folder.resolve()) in searched:
                return
            searched.add(place)
        if is_there(folder / "status.json"):
            yield _read_run(folder, words, judged)
            return
        jobs = _sweep_jobs(folder / "sweep.yaml")
        below = [child for child in children(folder) if child.is_dir()]
    except UserError as error:
        yield _spoiled(folder, str(error))
        return
    except OSError as error:
        yield _spoiled(folder, f"{folder}: cannot be searched ({error.strerror or error}); leave it out")
        return
    for child in below:
        yield from _runs_below(child, root, searched, judged, jobs.get(child.name))
    for name, words in jobs.items():
        if not is_there(folder / name):
            yield Run(folder / name, {}, "not started", None, None, {}, {}, {}, {}, overrides=words)


def _spoiled(folder: Folder, reason: str) -> Run:
    return Run(folder, {}, SPOILED, reason, None, {}, {}, {}, {})


def _sweep_jobs(file: Folder) -> dict[str, list[str]]:
    """Return the overrides of each job by the name of its folder; empty where the file is missing or bad."""
    try:
        record = SweepRecord(**read_yaml(file, SweepRecord, default={}, within=file.parent))
    except UserError:
        return {}  # it names what has not started, and words for the report
    jobs = {number: words for number, words in record.jobs.items() if type(number) is int}
    names = {number: record.folders.get(number, str(number)) for number in jobs}
    names |= {n: str(n) for n, name in names.items() if ".." in Path(name).parts or Path(name).is_absolute()}
    search = [str(word) for word in record.words or [] if str(word).startswith("hydra.searchpath")]
    return {names[number]: [*search, *map(str, words)] for number, words in jobs.items()}


def _read_run(folder: Folder, overrides: list[str] | None, judged: bool) -> Run:
    options: dict[str, Any] = {"within": folder, "remedy": _REMEDY}
    try:
        status = read_json(folder / "status.json", Status, **options)
        finished = status["status"] == "finished"
        if isinstance(folder, Path) and has_ended(status, folder):
            status |= {"status": "failed", "reason": "its process has ended"}
        config = read_yaml(folder / "config.yaml", **({} if finished else {"default": {}}), **options)
        if _trains(config):
            _check_config(folder, config)
        scores, scenes = _read_scores(folder / "test/per_image.csv", options)
        return Run(
            folder,
            config,
            status["status"],
            status.get("reason"),
            status.get("samples_seen"),
            status.get("fit") or {},
            scores,
            scenes,
            _read_curves(folder / "metrics.csv", options),
            bool(scores) and check_scores(folder, scores, len(scenes), config),
            overrides,
            read_judged(folder) if judged else (),
        )
    except UserError as error:
        return _spoiled(folder, str(error))


def _trains(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of a training, even if its loss is gone."""
    return "loss" in config or "steps" in config


def _check_config(folder: Folder, config: Mapping[str, Any]) -> None:
    file = folder / "config.yaml"
    needed = ("seed", "steps", "accumulate", "loss", "loader", "backbone", "protocol", "split_sha256")
    if missing := [key for key in needed if key not in config]:
        raise UserError(
            f"{file}: has no '{missing[0]}'; an older version wrote it: train it again, or leave the folder "
            "out"
        )
    check_form(file, config, Config, _REMEDY)
    read_tuning(config, f"{file}: ")


def _without_cut_ones(runs: Sequence[Run]) -> list[Run]:
    """Mark runs that lack images which others of their data split have: an older file may have been cut."""
    images: dict[str, set[str]] = {}
    for run in runs:
        if run.scores:
            images.setdefault(run.split, set()).update(run.scenes)
    kept = []
    for run in runs:
        known = len(images[run.split]) if run.scores and not run.digested else len(run.scenes)
        if lacking := known - len(run.scenes):
            reason = f"lacks {lacking} of the {known} test images that other runs of its split have"
            run = _spoiled(run.folder, f"{run.folder / 'test/per_image.csv'}: {reason}; {_REMEDY}")
        kept.append(run)
    return kept


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


def _number(path: Folder, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{path}: {text[:40]!r} is no number; {_REMEDY}") from None
    if isfinite(value) and abs(value) > _LARGEST:
        raise UserError(f"{path}: {text[:40]!r} is beyond {_LARGEST:g}; {_REMEDY}")
    return value


def _read_scores(
    path: Folder, options: Mapping[str, Any]
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    scores: dict[str, dict[str, float]] = {}
    scenes: dict[str, str] = {}
    for row in read_csv(path, ["name"], default=[], **options):
        image = row["name"]
        check_name(image)
        if image in scenes:
            raise UserError(f"{path}: has two lines of {image!r}; {_REMEDY}")
        scenes[image] = row.get("scene") or image
        for key, text in row.items():
            if key not in ("name", "scene", "protocol"):
                value = _number(path, text) if text else nan
                scores.setdefault(key, {})[image] = value if isfinite(value) else nan
    return scores, scenes


def _read_curves(path: Folder, options: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in read_csv(path, default=[], **options):
        for key, text in row.items():
            if text and row.get(SAMPLES_SEEN) and key.startswith(("train/", "val/")):
                seen, value = _number(path, row[SAMPLES_SEEN]), _number(path, text)
                if not isfinite(seen):
                    raise UserError(f"{path}: {SAMPLES_SEEN} is {seen}; {_REMEDY}")
                curves.setdefault(key, []).append((seen, value if isfinite(value) else nan))
    return curves
