"""The record of a sweep: its jobs, and which of them are still to be run."""

import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel

from clipfuse.errors import UserError
from clipfuse.files import is_there, read_yaml, write_atomically
from clipfuse.runs.folder import LOG, STATUS, check_sweep_folder, is_running
from clipfuse.runs.overrides import quoted, search_words
from clipfuse.runs.owner import claimed, owned
from hydra_plugins.clipfuse_launcher._jobs import SPOILED, Job, status_of, supervised

RECORD = "sweep.yaml"


class _Record(BaseModel):
    words: list[str] = []
    jobs: dict[int, list[str]]


class SweepLauncher(Launcher):
    """Keeps the record of a sweep; a subclass runs its jobs in `run`.

    A failing job is marked and the others go on. Its return value is None, so that a sweeper that takes jobs
    in batches goes on as well; `raise_failures` reports it when all jobs have ended.

    Attributes:
        resume: whether to run only those jobs of the sweep folder that are missing or have failed.
        failures: run folders of failed jobs.
        jobs: the overrides of all jobs.
        owner: holds the lock of the sweep folder until its block ends.
    """

    resume: ClassVar[bool] = False
    failures: ClassVar[list[Path]] = []
    jobs: ClassVar[dict[int, list[str]]] = {}
    owner: ClassVar[ExitStack] = ExitStack()

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Own the sweep folder, keep the sweep's configuration, and forget an earlier sweep.

        Raises:
            UserError: another process owns the folder, or it holds what no sweep writes.
        """
        self.config = config
        self.failures.clear()
        self.jobs.clear()
        raw = OmegaConf.to_container(config.hydra.sweep, resolve=False)
        assert isinstance(raw, dict)
        if "${now" in str(raw["dir"]):  # two sweeps may begin in the same second
            config.hydra.sweep.dir = str(
                self.owner.enter_context(claimed(Path(config.hydra.sweep.dir), "sweep"))
            )
        sweep = Path(config.hydra.sweep.dir)
        self.owner.enter_context(owned(sweep, kind="sweep"))
        if not self.resume:
            check_sweep_folder(sweep)

    def run(self, jobs: Sequence[Job]) -> None:
        """Run jobs until each has finished or failed."""
        raise NotImplementedError

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run every job in its own run folder below the sweep folder, its screen output in `log.txt`.

        Raises:
            UserError: the sweep folder holds another sweep, or a job in it is still running.
        """
        sweep = Path(self.config.hydra.sweep.dir)
        (sweep / "multirun.yaml").unlink(missing_ok=True)  # Hydra's; ours is sweep.yaml
        batch = {
            initial_job_idx + index: [word for word in overrides if not word.startswith("sweep=")]
            for index, overrides in enumerate(job_overrides)
        }
        todo = {number for number, overrides in batch.items() if self._is_open(sweep, number, overrides)}
        hydra = self.config.hydra.overrides
        search = search_words(hydra.hydra)
        given = {word.lower() for word in hydra.task}  # a sweeper writes false as False
        if not self.jobs:
            common = " ".join(word for word in batch[initial_job_idx] if word.lower() in given)
            print(f"sweep folder: {sweep}\n  all jobs: {common}")
        self._record(sweep, batch)
        jobs = []
        for number, overrides in batch.items():
            label = " ".join(word for word in overrides if word.lower() not in given)
            folder = sweep / str(number)
            if number in todo:
                jobs.append(
                    Job(number, [*overrides, *search, f"run_dir={quoted(str(folder))}"], folder, label)
                )
            else:
                spoiled = status_of(folder).get(SPOILED)
                print(f"  job {number}: {label} ... {f'LEFT OUT: {spoiled}' if spoiled else 'done before'}")
        with supervised(jobs):
            self.run(jobs)
        returns = []
        for number, overrides in batch.items():
            folder = sweep / str(number)
            status = status_of(folder)
            if status.get("status") != "finished":
                self.failures.append(folder)
                status = {}
            result = JobReturn(overrides=overrides, working_dir=str(folder), status=JobStatus.COMPLETED)
            objective = status.get("objective")
            # NaN would end Optuna's sweeper; None marks a failed trial.
            result.return_value = objective if objective is not None and isfinite(objective) else None
            returns.append(result)
        return returns

    def _is_open(self, sweep: Path, number: int, overrides: Sequence[str]) -> bool:
        """Whether the job is still to be run."""
        folder = sweep / str(number)
        if self.resume:
            recorded = _known_jobs(sweep).get(number, list(overrides))
            if recorded != list(overrides):
                raise UserError(
                    f"job {number} of {sweep} was {' '.join(recorded)}; now it would be {' '.join(overrides)}"
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

    def _record(self, sweep: Path, batch: dict[int, list[str]]) -> None:
        self.jobs.update(batch)
        overrides = self.config.hydra.overrides
        record = {
            "words": [*overrides.task, *overrides.hydra],
            "jobs": {**_known_jobs(sweep), **self.jobs},
        }
        with write_atomically(sweep / RECORD) as file:
            file.write(OmegaConf.to_yaml(OmegaConf.create(record)))

    @classmethod
    def raise_failures(cls) -> None:
        """Report the failed jobs of the sweep.

        Raises:
            UserError: there are failed jobs; the message names their logs.
        """
        if cls.failures:
            logs = ", ".join(str(folder / LOG) for folder in cls.failures)
            again = resume_command(cls.failures[0].parent)
            raise UserError(
                f"{len(cls.failures)} of {len(cls.jobs)} jobs failed; see {logs}; run them again by: {again}"
            )


def _known_jobs(sweep: Path) -> dict[int, list[str]]:
    """Return the jobs of the record; none where there is no record.

    Raises:
        UserError: it cannot be read.
    """
    remedy = "restore it, or start the sweep anew in another folder"
    jobs: dict[int, list[str]] = read_yaml(sweep / RECORD, _Record, default={}, remedy=remedy).get("jobs", {})
    return jobs


def resume_command(sweep: Path) -> str:
    """Return the command that runs the missing and failed jobs of a sweep."""
    return f"clipfuse train -m {shlex.quote(f'sweep.resume={sweep}')}"
