"""A job of a sweep: one fresh process with its run folder and its log."""

import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from clipfuse.errors import UserError
from clipfuse.files import write_json
from clipfuse.runs.folder import LOG, STATUS, read_status

SPOILED = "spoiled"  # in a status that cannot be read: why
GRACE = 60.0  # seconds that an interrupted job has to close its run

# A job must not take itself for a rank of a distributed run that this process belongs to.
_RANK_VARIABLES = (
    *("RANK", "LOCAL_", "NODE_RANK", "GROUP_", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_", "PL_GLOBAL_"),
    *("SLURM_NTASKS", "SLURM_PROCID"),
)
_PROGRESS = re.compile(rb"(\w+): +\d+%\|[^|]*\| *(\d+/\d+)")


class Job:
    """`clipfuse train WORDS` in a process group of its own, its screen output in `log.txt`.

    Args:
        number: its place in the sweep.
        words: overrides, `run_dir` among them.
        folder: the run folder, relative to the current folder of this process.
        label: the overrides that distinguish it from the other jobs.
    """

    def __init__(self, number: int, words: Sequence[str], folder: Path, label: str = "") -> None:
        self.number = number
        self.words = list(words)
        self.folder = folder
        self.label = label
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, devices: str | None = None, cwd: str | None = None) -> None:
        """Start the process; an earlier attempt goes on from its checkpoint, or begins anew without one.

        Args:
            devices: value of `CUDA_VISIBLE_DEVICES`; None leaves it as it is.
            cwd: folder to which relative paths in `words` refer; the current one by default.
        """
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_RANK_VARIABLES)}
        if devices is not None:
            environment["CUDA_VISIBLE_DEVICES"] = devices
        words = self.words
        if (self.folder / STATUS).is_file():
            words = [*words, "auto_resume=true"]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.started = monotonic()
        with (self.folder / LOG).open("ab") as log:
            self.process = subprocess.Popen(
                command(words),
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_allow_interrupts,
            )

    def is_alive(self) -> bool:
        """Return whether the process was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def progress(self) -> str:
        """Return the progress that its log shows, such as `training 70/200`."""
        with (self.folder / LOG).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
            found = _PROGRESS.findall(log.read())
        return b" ".join(found[-1]).decode() if found else "starting"

    def send(self, number: int) -> None:
        """Send a signal to the process and all it has started."""
        if self.process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)

    def close(self) -> str:
        """Wait for the end, kill processes that are left, and mark a failed run that could not do so itself.

        Returns:
            The failure with its exit code or signal, or an empty text.
        """
        assert self.process is not None
        code = self.process.wait()
        self.send(signal.SIGKILL)
        status = status_of(self.folder)
        if code == 0 and status.get("status") == "finished":
            return ""
        problem = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        if status.get("status") != "failed" and SPOILED not in status:
            write_json(self.folder / STATUS, {"status": "failed", "reason": f"{problem}, see {LOG}"})
        return f"FAILED ({problem})"


def status_of(folder: Path) -> dict[str, Any]:
    """Return the status of a job as `read_status`; of a spoiled file only the reason, under `SPOILED`."""
    try:
        return read_status(folder)
    except UserError as error:
        return {SPOILED: str(error)}


def command(words: Sequence[str]) -> list[str]:
    """Return the command line of a job."""
    return [sys.executable, "-m", "clipfuse.cli", "train", *words]


def stop(jobs: Sequence[Job]) -> None:
    """Send SIGINT to the running jobs, ranks of DDP included, and kill those that go on for `GRACE` seconds.

    If this process is stopped again while it waits, it kills them at once.
    """
    running = [job for job in jobs if job.is_alive()]
    deadline = monotonic() + GRACE
    try:
        for job in running:
            job.send(signal.SIGINT)
        while any(job.is_alive() for job in running) and monotonic() < deadline:
            sleep(0.1)
    finally:
        for job in running:
            job.send(signal.SIGKILL)
            job.close()


@contextmanager
def supervised(jobs: Sequence[Job]) -> Iterator[None]:
    """Stop the jobs when this process is stopped: by Ctrl-C, by SIGTERM or SIGHUP (exit code 143, 129)."""

    def unwind(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    handled = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) != signal.SIG_IGN]
    previous = {each: signal.signal(each, unwind) for each in handled}
    try:
        yield
    except BaseException:
        stop(jobs)
        raise
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


def _allow_interrupts() -> None:
    """Let SIGINT work, even if started in the background; on Linux get one when the launcher is killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG
