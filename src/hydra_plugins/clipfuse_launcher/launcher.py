"""`clipfuse train -m`: every job of a sweep is a process of its own.

Within one process a failed job can hang the next under DDP, W&B logs two jobs into one run, and GPU
memory is not returned.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from clipfuse.engine.folder import LOG, STATUS, write_json
from clipfuse.errors import UserError

# A child must not take itself for a rank of a distributed run its parent belongs to.
_RANK_VARIABLES = (
    "RANK",
    "LOCAL_",
    "NODE_RANK",
    "GROUP_",
    "WORLD_SIZE",
    "MASTER_",
    "TORCHELASTIC_",
    "PL_GLOBAL_",
)


class SubprocessLauncher(Launcher):
    """Runs the jobs one after the other; a failing job is marked and the others go on.

    A failed job returns NaN, so that a sweeper that asks for jobs in batches goes on as well;
    `raise_failures` reports it when all is done.
    """

    failures: ClassVar[list[Path]] = []
    jobs: ClassVar[dict[int, list[str]]] = {}

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Keep the sweep's configuration and start a new count."""
        self.config = config
        self.failures.clear()
        self.jobs.clear()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run every job in its own run folder below the sweep folder, its screen output in `log.txt`.

        Raises:
            UserError: the sweep folder holds runs of an earlier sweep.
        """
        sweep = Path(self.config.hydra.sweep.dir)
        (sweep / "multirun.yaml").unlink(missing_ok=True)  # Hydra's; ours is sweep.yaml
        batch = {initial_job_idx + index: list(overrides) for index, overrides in enumerate(job_overrides)}
        for number in batch:
            if (sweep / str(number) / STATUS).exists():
                raise UserError(f"{sweep} holds an earlier sweep; choose another folder by hydra.sweep.dir=X")
        self.jobs.update(batch)
        OmegaConf.save(OmegaConf.create({"jobs": self.jobs}), sweep / "sweep.yaml")
        shared = set.intersection(*map(set, batch.values()))
        common = " ".join(word for word in batch[initial_job_idx] if word in shared)
        print(f"sweep folder: {sweep}\n  all {len(batch)} jobs: {common}")
        search = [word for word in self.config.hydra.overrides.hydra if word.startswith("hydra.searchpath")]
        returns = []
        for number, overrides in batch.items():
            own = " ".join(word for word in overrides if word not in shared)
            print(f"  job {number}: {own} ... ", end="", flush=True)
            start = monotonic()
            folder = sweep / str(number)
            problem = _run([*overrides, *search], folder)
            print(f"{problem or 'done'} in {monotonic() - start:.0f} s")
            if problem:
                self.failures.append(folder)
            result = JobReturn(overrides=overrides, working_dir=str(folder), status=JobStatus.COMPLETED)
            result.return_value = float("nan") if problem else _status(folder).get("objective")
            returns.append(result)
        return returns

    @classmethod
    def raise_failures(cls) -> None:
        """Report the failed jobs of the sweep that was run.

        Raises:
            UserError: there are some; names their logs.
        """
        if cls.failures:
            logs = ", ".join(str(folder / LOG) for folder in cls.failures)
            raise UserError(f"{len(cls.failures)} of {len(cls.jobs)} jobs failed; see {logs}")


def _status(folder: Path) -> dict[str, Any]:
    path = folder / STATUS
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _run(overrides: Sequence[str], folder: Path) -> str:
    """Run one job; return what went wrong, if anything."""
    folder.mkdir(parents=True, exist_ok=True)
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    command = [sys.executable, "-m", "clipfuse.cli", "train", *overrides, f"run_dir='{quoted}'"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(_RANK_VARIABLES)}
    with (
        (folder / LOG).open("w") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT) as child,
    ):
        try:
            code = child.wait()
        except KeyboardInterrupt:
            # Ctrl-C has reached the child too; it closes its run.
            child.wait(timeout=60)
            raise
    status = _status(folder)
    if code == 0 and status.get("status") == "finished":
        return ""
    if status.get("status") != "failed":
        # It died before its run folder was made, or was killed.
        write_json(folder / STATUS, {"status": "failed", "reason": f"exit code {code}, see {LOG}"})
    return f"FAILED (exit code {code})"
