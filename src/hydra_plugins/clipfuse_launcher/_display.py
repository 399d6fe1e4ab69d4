"""The lines that a sweep shows of its jobs."""

import sys
from typing import Any

from tqdm import tqdm

from hydra_plugins.clipfuse_launcher._jobs import Job


class Display:
    """On a terminal one line per running job, redrawn; elsewhere a line at its start and one at its end."""

    def __init__(self, live: bool | None = None) -> None:
        self.live = sys.stdout.isatty() if live is None else live
        self.lines: dict[int, Any] = {}

    def start(self, job: Job) -> None:
        """Show that a job has started."""
        if not self.live:
            print(f"  job {job.number}: {job.label} ... started", flush=True)
            return
        taken = {line.pos for line in self.lines.values()}
        position = next(place for place in range(len(taken) + 1) if -place not in taken)
        style: Any = {"bar_format": "{desc} [{elapsed}]", "leave": False, "dynamic_ncols": True}
        self.lines[job.number] = tqdm(position=position, file=sys.stdout, **style)
        self.update(job)

    def update(self, job: Job) -> None:
        """Show how far a job is."""
        if self.live:
            self.lines[job.number].set_description_str(
                f"  job {job.number}: {job.label} ... {job.progress()}"
            )

    def end(self, job: Job, outcome: str) -> None:
        """Leave a line with the outcome of a job."""
        if self.live:
            self.lines.pop(job.number).close()
        tqdm.write(f"  job {job.number}: {job.label} ... {outcome}", file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Take the lines of running jobs off the screen."""
        for line in self.lines.values():
            line.close()
