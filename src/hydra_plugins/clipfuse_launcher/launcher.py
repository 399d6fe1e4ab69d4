"""`clipfuse train -m`: every job of a sweep is a process of its own.

Within one process a failed job can hang the next under DDP, W&B logs two jobs into one run, and GPU
memory is not returned.
"""

import os
from collections.abc import Sequence
from contextlib import closing
from time import monotonic, sleep
from typing import Any

from omegaconf import DictConfig

from clipfuse.errors import UserError
from hydra_plugins.clipfuse_launcher._display import Display
from hydra_plugins.clipfuse_launcher._jobs import Job
from hydra_plugins.clipfuse_launcher._sweep import SweepLauncher


class SubprocessLauncher(SweepLauncher):
    """Runs up to `max_parallel` jobs at a time on this machine.

    Args:
        max_parallel: jobs at a time, at least 1.
        gpus_per_job: devices that each job sees, out of `CUDA_VISIBLE_DEVICES` or of all; 0 leaves the
            environment as it is.
    """

    def __init__(self, max_parallel: int = 1, gpus_per_job: int = 0) -> None:
        self.max_parallel = max_parallel
        self.gpus_per_job = gpus_per_job

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Assign the devices to the slots.

        Raises:
            UserError: there are fewer devices than the jobs need.
        """
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        for name, least in {"max_parallel": 1, "gpus_per_job": 0}.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise UserError(
                    f"hydra.launcher.{name} is {value!r}; expected a whole number, at least {least}"
                )
        self.slots = _slots(self.max_parallel, self.gpus_per_job)

    def run(self, jobs: Sequence[Job]) -> None:
        """Run the jobs, each as soon as a slot is free."""
        waiting = list(jobs)
        running: list[tuple[Job, str | None]] = []
        slots = list(self.slots)
        with closing(Display()) as display:
            while waiting or running:
                while waiting and slots:
                    running.append((waiting.pop(0), slots.pop(0)))
                    job, devices = running[-1]
                    job.start(devices)
                    display.start(job)
                sleep(0.2)
                for job, devices in [entry for entry in running if not entry[0].is_alive()]:
                    running.remove((job, devices))
                    slots.append(devices)
                    outcome = job.close() or "done"
                    display.end(job, f"{outcome} in {monotonic() - job.started:.0f} s")
                for job, _ in running:
                    display.update(job)


def _slots(parallel: int, gpus: int) -> list[str | None]:
    """Return the value of `CUDA_VISIBLE_DEVICES` for each of the jobs that run at a time."""
    if not gpus:
        return [None] * parallel
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        from torch.cuda import device_count

        devices = [str(index) for index in range(device_count())]
    else:
        devices = [device.strip() for device in listed.split(",") if device.strip()]
    if parallel * gpus > len(devices):
        where = "on this machine" if listed is None else f"in CUDA_VISIBLE_DEVICES={listed}"
        raise UserError(
            f"hydra.launcher: max_parallel={parallel} jobs with gpus_per_job={gpus} need {parallel * gpus} "
            f"GPUs; there are {len(devices)} {where}"
        )
    return [",".join(devices[gpus * slot : gpus * (slot + 1)]) for slot in range(parallel)]
