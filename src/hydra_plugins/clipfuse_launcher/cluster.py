"""Sweeps on a cluster, by Hydra's launchers for Ray and for submitit (SLURM)."""

import os
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from clipfuse.errors import UserError
from clipfuse.files import write_json
from clipfuse.runs.composed import read_composed
from clipfuse.runs.folder import STATUS
from clipfuse.runs.overrides import quoted
from hydra_plugins.clipfuse_launcher._display import Display
from hydra_plugins.clipfuse_launcher._jobs import SPOILED, Job, status_of, supervised
from hydra_plugins.clipfuse_launcher._sweep import JOBS, SweepLauncher, resume_command


class ClusterLauncher(SweepLauncher):
    """Passes the jobs to another Hydra launcher; each is a fresh process on its machine, too.

    The sweep folder must be on a file system that all machines share.

    Args:
        **parameters: arguments of the other launcher.

    Attributes:
        via: class of the other launcher.
        hint: what may help where it cannot be reached.
    """

    via: ClassVar[str]
    hint: ClassVar[str] = ""

    def __init__(self, **parameters: Any) -> None:
        self.parameters = parameters

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Make the other launcher.

        Raises:
            UserError: it is not installed.
        """
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        try:
            self.launcher: Launcher = resolve_name(self.via)(**self.parameters)
        except (ImportError, AttributeError) as error:
            raise UserError(f"{self.via} is not there; install the extra 'sweep': clipfuse[sweep]") from error
        self.launcher.setup(hydra_context=hydra_context, task_function=run_here, config=config)

    def run(self, jobs: Sequence[Job]) -> None:
        """Run the jobs on the cluster.

        Raises:
            UserError: the cluster cannot be reached, or lost a job.
        """
        if not jobs:
            return
        display = Display(live=False)
        for job in jobs:
            display.start(job)
        # That launcher composes once more; of what it composes, `run_here` takes the name of the file alone.
        folder = os.path.abspath(self.config.hydra.sweep.dir)
        places = [f"hydra.sweep.dir={quoted(folder)}", f"hydra.sweep.subdir={JOBS}"]
        words = [
            [*self.jobs[job.number], f"run_dir={quoted(os.path.abspath(job.file))}", *places] for job in jobs
        ]
        try:
            self.launcher.launch(words, jobs[0].number)
        except Exception as error:
            hint = self.hint if "connect" in str(error) else ""
            raise UserError(
                f"{self.via.rpartition('.')[2]}: {' '.join(str(error).split())}{hint}; run the "
                f"missing jobs by: {resume_command(Path(self.config.hydra.sweep.dir))}"
            ) from error
        for job in jobs:
            status = status_of(job.folder)
            reason = status.get("reason") or status.get(SPOILED) or "it left no status"
            display.end(job, "done" if status.get("status") == "finished" else f"FAILED: {reason}")


class RayCluster(ClusterLauncher):
    """A Ray cluster."""

    via = "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"
    # A head wants its user's token, which Ray sends to `auto` by itself, but to no other address.
    hint = " (where its head has token authentication, set RAY_AUTH_MODE=token here)"

    def run(self, jobs: Sequence[Job]) -> None:
        """Run the jobs; Ray kills them when this process is stopped, so their status is written here."""
        try:
            super().run(jobs)
        finally:
            resolve_name("ray").shutdown()  # else this process would end with the cluster
            for job in jobs:
                if status_of(job.folder).get("status") == "running":
                    write_json(job.folder / STATUS, {"status": "failed", "reason": "interrupted"})


class SlurmCluster(ClusterLauncher):
    """SLURM, by submitit; jobs stay in its queue when this process is stopped."""

    via = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"


class LocalCluster(ClusterLauncher):
    """Submitit without a cluster, to try a sweep before it is sent to one."""

    via = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"


def run_here(config: DictConfig) -> None:
    """Run one job of a sweep on a machine of the cluster; Ray and submitit call this."""
    file, cwd = Path(config.run_dir), HydraConfig.get().runtime.cwd
    job = Job(0, file, Path(cwd) / read_composed(file).config.run_dir)
    with supervised([job]):
        job.start(cwd=cwd)
        job.close()
