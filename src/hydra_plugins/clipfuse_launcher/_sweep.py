"""The record of a sweep: its jobs, and which of them are still to be run."""

import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, open_dict
from pydantic import BaseModel

from clipfuse.errors import UserError
from clipfuse.files import is_there, read_yaml, write_atomically
from clipfuse.runs.composed import Composed, read_composed, write_composed
from clipfuse.runs.folder import LOG, STATUS, check_sweep_folder, is_running
from clipfuse.runs.objective import check_selection
from clipfuse.runs.overrides import quoted, raw
from clipfuse.runs.owner import claimed, owned
from hydra_plugins.clipfuse_launcher._jobs import SPOILED, Job, status_of, supervised

RECORD = "sweep.yaml"
JOBS = ".jobs"  # folder of the configurations from which the jobs are started


def readable(word: str) -> str:
    """Return an override that Hydra can read, of one whose text a sweeper wrote without its quotes.

    Outside of quotes the grammar has neither umlauts nor quotes nor line breaks; a sweeper writes the texts
    of `choice(...)` there, with a backslash before each special character.
    """
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        key, _, value = word.partition("=")
        plain = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        return f"{key}={quoted(plain)}"
    return word


class _Record(BaseModel):
    words: list[str] = []
    jobs: dict[int, list[str]] = {}
    folders: dict[int, str] = {}


class SweepLauncher(Launcher):
    """Keeps the record of a sweep; a subclass runs its jobs in `run`.

    A failing job is marked and the others go on. Its return value is None, so that a sweeper that takes jobs
    in batches goes on as well; `raise_failures` reports it when all jobs have ended.

    Attributes:
        resume: whether to run only those jobs of the sweep folder that are missing or have failed.
        complete: takes the composed configuration of a job, and returns what its process is to be given.
        folder: of the sweep.
        folders: run folder of each job.
        labels: what distinguishes each job from the others.
        failures: run folders of failed jobs.
        jobs: the overrides of all jobs.
        owner: holds the lock of the sweep folder until its block ends.
        options: Hydra's options of the command line, such as --config-dir.
    """

    resume: ClassVar[bool] = False
    complete: ClassVar[Callable[[DictConfig], tuple[DictConfig, dict[str, Any]]]]
    folder: ClassVar[Path]
    folders: ClassVar[dict[int, Path]] = {}
    labels: ClassVar[dict[int, str]] = {}
    failures: ClassVar[list[Path]] = []
    jobs: ClassVar[dict[int, list[str]]] = {}
    owner: ClassVar[ExitStack] = ExitStack()
    options: ClassVar[list[str]] = []

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Own the sweep folder, keep the sweep's configuration, and forget an earlier sweep.

        Raises:
            UserError: a run folder was given, another process owns the sweep folder, or it holds other files.
        """
        if any(word.startswith("run_dir=") for word in raw(config.hydra.overrides.task)):
            raise UserError("a sweep makes its own run folders; instead of run_dir=X give hydra.sweep.dir=X")
        if self._selects(config):
            check_selection(str(config.get("objective")), bool(config.get("objective_on_test")))
        self.config = config
        self.context = hydra_context
        self.forget()
        place: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
        sweep = Path(config.hydra.sweep.dir)
        if "${now" in str(place["dir"]):  # two sweeps may begin in the same second
            sweep = self.owner.enter_context(claimed(sweep, "sweep"))
            config.hydra.sweep.dir = str(sweep)
        self.owner.enter_context(owned(sweep, kind="sweep"))
        if not self.resume:
            check_sweep_folder(sweep)

    @staticmethod
    def _selects(config: DictConfig) -> bool:
        """Whether the sweeper chooses jobs by the objective of earlier ones."""
        return not str(config.hydra.sweeper._target_).startswith("hydra._internal.")

    @classmethod
    def forget(cls) -> None:
        """Forget an earlier sweep of this process."""
        for kept in (cls.failures, cls.jobs, cls.folders, cls.labels):
            kept.clear()

    def run(self, jobs: Sequence[Job]) -> None:
        """Run jobs until each has finished or failed."""
        raise NotImplementedError

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run every job in its own run folder below the sweep folder, its screen output in `log.txt`.

        Raises:
            UserError: the sweep folder holds another sweep, or a job in it is still running.
        """
        sweep = SweepLauncher.folder = Path(self.config.hydra.sweep.dir)
        (sweep / "multirun.yaml").unlink(missing_ok=True)  # Hydra's; ours is sweep.yaml
        batch = {
            initial_job_idx + index: [readable(word) for word in words]
            for index, words in enumerate(job_overrides)
        }
        try:
            composed = {number: self._compose(number, words) for number, words in batch.items()}
            folders = {number: sweep / self._subdir(config) for number, config in composed.items()}
            if twice := [place for place, count in Counter(folders.values()).items() if count > 1]:
                raise UserError(f"hydra.sweep.subdir gives several jobs the folder {twice[0]}")
            # Whether a search goes on is no setting of its jobs.
            batch = {
                n: [each for each in words if not each.startswith("sweep=")] for n, words in batch.items()
            }
            todo = {
                number: self._job(sweep, folders[number], number, composed[number])
                for number, words in batch.items()
                if self._is_open(sweep, folders[number], number, words)
            }
        except UserError:
            with suppress(OSError):
                sweep.rmdir()  # Hydra made it; if it is empty, nobody misses it
            raise
        given = {
            word.lower() for word in raw(self.config.hydra.overrides.task)
        }  # a sweeper writes false as False
        labels = {
            n: " ".join(word for word in words if word.lower() not in given).replace("\n", "\\n")
            for n, words in batch.items()
        }
        variables = {str(key): str(value) for key, value in self.config.hydra.job.env_set.items()}
        files = {number: sweep / JOBS / f"{number}.yaml" for number in todo}
        for number, job in todo.items():
            write_composed(files[number], job.name, job.config, job.hydra)
        if not self.jobs:
            common = " ".join(word for word in batch[initial_job_idx] if word.lower() in given)
            print(f"sweep folder: {sweep}\n  all jobs: {common}")
        self.folders.update(folders)
        self.labels.update(labels)
        self._record(sweep, batch, folders)
        for number in sorted(batch.keys() - todo.keys()):
            spoiled = status_of(folders[number]).get(SPOILED)
            outcome = f"LEFT OUT: {spoiled}" if spoiled else "done before"
            print(f"  job {number}: {labels[number]} ... {outcome}")
        jobs = [Job(number, files[number], folders[number], labels[number], variables) for number in todo]
        with supervised(jobs):
            self.run(jobs)
        return [self._outcome(folders[number], words) for number, words in batch.items()]

    def _compose(self, number: int, words: Sequence[str]) -> DictConfig:
        """Return the configuration of a job, with Hydra's node, as this process understands it."""
        config: DictConfig = self.context.config_loader.load_sweep_config(self.config, list(words))
        with open_dict(config):
            config.hydra.job.num, config.hydra.job.id = number, str(number)
        return config

    def _subdir(self, config: DictConfig) -> str:
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)
        try:
            return str(config.hydra.sweep.subdir)
        finally:
            HydraConfig.instance().cfg = before

    def _job(self, sweep: Path, folder: Path, number: int, config: DictConfig) -> Composed:
        """Return what the process of a job is started from; an earlier attempt goes on with its own."""
        again = is_there(folder / STATUS)
        file = sweep / JOBS / f"{number}.yaml"
        if again and is_there(file) and (earlier := read_composed(file)).config.run_dir == str(folder):
            earlier.config.auto_resume = True  # from its checkpoint, or anew without one
            return earlier
        with open_dict(config):
            config.run_dir = str(folder)
            config.auto_resume = again or config.get("auto_resume", False)
        return Composed("train", *type(self).complete(config))

    def _outcome(self, folder: Path, words: Sequence[str]) -> JobReturn:
        """Return what a sweeper gets of a job; NaN would end Optuna's, and None marks a failed trial."""
        status = status_of(folder)
        if status.get("status") != "finished":
            self.failures.append(folder)
            status = {}
        result = JobReturn(overrides=words, working_dir=str(folder), status=JobStatus.COMPLETED)
        objective = status.get("objective")
        result.return_value = objective if objective is not None and isfinite(objective) else None
        return result

    def _is_open(self, sweep: Path, folder: Path, number: int, overrides: Sequence[str]) -> bool:
        """Whether the job is still to be run."""
        if self.resume:
            recorded = _known(sweep).jobs.get(number, list(overrides))
            if recorded != list(overrides):
                raise UserError(
                    f"job {number} of {sweep} was {' '.join(recorded)[:500]}; now it would be "
                    f"{' '.join(overrides)}"
                )
        elif is_there(folder / STATUS) or (not self.jobs and is_there(sweep / RECORD)):
            raise UserError(
                f"{sweep} holds an earlier sweep; choose another folder by hydra.sweep.dir=X, "
                f"or go on with it: {resume_command(sweep)}"
            )
        status = status_of(folder)
        if is_running(status, folder):
            raise UserError(
                f"the job in {folder} is running (process {status.get('pid')} on {status.get('host')}); wait "
                "for it or stop it"
            )
        return status.get("status") != "finished" and SPOILED not in status

    def _record(self, sweep: Path, batch: dict[int, list[str]], folders: dict[int, Path]) -> None:
        self.jobs.update(batch)
        hydra = self.config.hydra
        known = _known(sweep)
        names = {number: str(folder.relative_to(sweep)) for number, folder in folders.items()}
        names = {**known.folders, **{n: name for n, name in names.items() if name != str(n)}}
        record: dict[str, Any] = {
            "words": [*raw(hydra.overrides.task), *raw(hydra.overrides.hydra)],
            "options": self.options,
            "started_in": os.getcwd(),
            "jobs": {**known.jobs, **self.jobs},
            **({"folders": names} if names else {}),
        }
        with write_atomically(sweep / RECORD) as file:
            file.write(OmegaConf.to_yaml(OmegaConf.create(record)))

    @classmethod
    def conclude(cls) -> None:
        """Name the best run of the sweep and how to compare its runs, and report failed jobs.

        Raises:
            UserError: there are failed jobs; the message names their logs.
        """
        if not cls.jobs:
            return
        statuses = {number: status_of(folder) for number, folder in cls.folders.items()}
        scored = {n: each for n, each in statuses.items() if isinstance(each.get("objective"), float)}
        how = next(iter(scored.values()), {})
        name, high = str(how.get("objective_name")), how.get("higher_is_better")
        if high is not None and not name.startswith("test/"):  # nothing is chosen by test scores
            best = (max if high else min)(scored, key=lambda number: scored[number]["objective"])
            value, label = scored[best]["objective"], cls.labels[best]
            print(f"best {name}: {value:.4g} in {cls.folders[best]}{f' ({label})' if label else ''}")
        if any((folder / "test").is_dir() for folder in cls.folders.values()):
            print(f"compare the runs: clipfuse compare {shlex.quote(str(cls.folder))}", flush=True)
        if cls.failures:
            logs = ", ".join(str(folder / LOG) for folder in cls.failures)
            raise UserError(
                f"{len(cls.failures)} of {len(cls.jobs)} jobs failed; see {logs}; run them again by: "
                f"{resume_command(cls.folder)}"
            )


def _known(sweep: Path) -> _Record:
    """Return the record of a sweep; an empty one where there is none.

    Raises:
        UserError: it cannot be read.
    """
    remedy = "restore it, or start the sweep anew in another folder"
    return _Record.model_validate(read_yaml(sweep / RECORD, _Record, default={}, remedy=remedy))


def resume_command(sweep: Path) -> str:
    """Return the command that runs the missing and failed jobs of a sweep."""
    return f"clipfuse train -m {shlex.quote(f'sweep.resume={sweep}')}"
