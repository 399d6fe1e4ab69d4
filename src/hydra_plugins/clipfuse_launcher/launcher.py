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
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from clipfuse.errors import UserError

# A child must not take itself for a rank of a distributed run its parent belongs to.
_RANK_VARIABLES = (
    "LOCAL_RANK",
    "RANK",
    "NODE_RANK",
    "GROUP_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)


class SubprocessLauncher(Launcher):
    """Runs the jobs one after the other; a failing job is marked and the others go on."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Keep the sweep's configuration."""
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run every job in its own run folder below the sweep folder, its screen output in `log.txt`."""
        sweep = Path(self.config.hydra.sweep.dir)
        sweep.mkdir(parents=True, exist_ok=True)
        (sweep / "multirun.yaml").unlink(missing_ok=True)
        print(f"sweep folder: {sweep}")
        jobs = {
            initial_job_idx + index: [word for word in overrides if not word.startswith("hydra.")]
            for index, overrides in enumerate(job_overrides)
        }
        OmegaConf.save(OmegaConf.create({"jobs": jobs}), sweep / "sweep.yaml")
        returns = [self._run(number, overrides, sweep / str(number)) for number, overrides in jobs.items()]
        failed = [
            str(number)
            for number, result in zip(jobs, returns, strict=True)
            if result.status is JobStatus.FAILED
        ]
        if failed:
            error = UserError(
                f"{len(failed)} of {len(jobs)} jobs failed ({', '.join(failed)}); see {sweep}/N/log.txt"
            )
            for result in returns:
                if result.status is JobStatus.FAILED:
                    result.return_value = error
        return returns

    def _run(self, number: int, overrides: Sequence[str], folder: Path) -> JobReturn:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "clipfuse.cli", "train", *overrides, f"run_dir={folder}"]
        environment = {key: value for key, value in os.environ.items() if key not in _RANK_VARIABLES}
        print(f"  job {number}: {' '.join(overrides)} ... ", end="", flush=True)
        start = monotonic()
        with (folder / "log.txt").open("w") as log:
            code = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode
        result = JobReturn(overrides=list(overrides), working_dir=str(folder))
        result.status = JobStatus.COMPLETED if code == 0 else JobStatus.FAILED
        print(f"{'done' if code == 0 else f'FAILED (exit code {code})'} in {monotonic() - start:.0f} s")
        if code == 0:
            result.return_value = json.loads((folder / "status.json").read_text())["objective"]
        return result
