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

from clipfuse.engine.folder import LOG, STATUS, write_json
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
        """Run every job in its own run folder below the sweep folder, its screen output in `log.txt`.

        Raises:
            UserError: some jobs failed; all have been run.
        """
        sweep = Path(self.config.hydra.sweep.dir)
        (sweep / "multirun.yaml").unlink(missing_ok=True)  # Hydra's; ours is sweep.yaml
        jobs = {initial_job_idx + index: list(overrides) for index, overrides in enumerate(job_overrides)}
        OmegaConf.save(OmegaConf.create({"jobs": jobs}), sweep / "sweep.yaml")
        shared = set.intersection(*map(set, jobs.values()))
        common = " ".join(word for word in jobs[initial_job_idx] if word in shared)
        print(f"sweep folder: {sweep}\n  all {len(jobs)} jobs: {common}")
        returns = []
        for number, overrides in jobs.items():
            own = " ".join(word for word in overrides if word not in shared)
            print(f"  job {number}: {own} ... ", end="", flush=True)
            returns.append(_run(overrides, sweep / str(number)))
        failed = [
            str(n) for n, result in zip(jobs, returns, strict=True) if result.status is JobStatus.FAILED
        ]
        if failed:
            raise UserError(
                f"{len(failed)} of {len(jobs)} jobs failed ({', '.join(failed)}); see {sweep}/N/{LOG}"
            )
        return returns


def _run(overrides: Sequence[str], folder: Path) -> JobReturn:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "clipfuse.cli", "train", *overrides, f"run_dir='{folder}'"]
    environment = {key: value for key, value in os.environ.items() if key not in _RANK_VARIABLES}
    result = JobReturn(overrides=overrides, working_dir=str(folder), status=JobStatus.FAILED)
    start = monotonic()
    with (folder / LOG).open("w") as log:
        code = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode
    status_file = folder / STATUS
    status = json.loads(status_file.read_text()) if status_file.is_file() else {}
    if code == 0:
        result.status = JobStatus.COMPLETED
        result.return_value = status.get("objective")
    elif status.get("status") != "failed":
        # It died before its run folder was made, or was killed.
        write_json(status_file, {"status": "failed", "reason": f"exit code {code}, see {LOG}"})
    print(f"{'done' if code == 0 else f'FAILED (exit code {code})'} in {monotonic() - start:.0f} s")
    return result
