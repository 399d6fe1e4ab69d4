"""A job of a sweep: one fresh process with its run folder and its log."""

import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from clipfuse.errors import UserError
from clipfuse.files import write_json
from clipfuse.runs.folder import LOG, STATUS, read_status

SPOILED = "spoiled"  # in a status that cannot be read: why
GRACE = 60.0  # seconds that an interrupted job has to close its run

# Variables that are meant for one process or one run: a job is neither a rank of a distributed run that this
# process belongs to, nor the run of a tracker for which this process was started, as an agent of W&B does.
_OF_ONE_RUN = re.compile(
    r"(LOCAL|GROUP|ROLE|MASTER|TORCHELASTIC|PL_GLOBAL|PMI|PMIX|OMPI|JSM_NAMESPACE)_\w+|RANK|NODE_RANK|WORLD_SIZE"
    r"|SLURM_(NTASKS|NPROCS|PROCID|LOCALID|NODEID|GTIDS|TASK|STEP|SRUN|LAUNCH)\w*"
    r"|WANDB_(RUN_ID|NAME|RESUME\w*|FORK_FROM|SWEEP_\w+|LAUNCH\w*)"
    r"|MLFLOW_RUN_(ID|NAME)|COMET_EXPERIMENT_KEY|NEPTUNE_CUSTOM_RUN_ID|CLEARML_TASK_ID"
)
_PROGRESS = re.compile(rb"(\w+): +\d+%\|[^|]*\| *(\d+/\d+)")
_ERROR = re.compile(rb"^(?:clipfuse: error: |(?=[\w.]*(?:Error|Exception)\b))(.+)", re.MULTILINE)


class Job:
    """A training in a process group of its own, its screen output in `log.txt`.

    Args:
        number: its place in the sweep.
        file: its composed configuration; see `clipfuse.runs.composed`.
        folder: the run folder, relative to the current folder of this process.
        label: the overrides that distinguish it from the other jobs.
        variables: are added to the environment.
    """

    def __init__(
        self,
        number: int,
        file: Path,
        folder: Path,
        label: str = "",
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.number = number
        self.file = file
        self.folder = folder
        self.label = label
        self.variables = dict(variables or {})
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, devices: str | None = None, cwd: str | None = None) -> None:
        """Start the process.

        Args:
            devices: value of `CUDA_VISIBLE_DEVICES`; None leaves it as it is.
            cwd: folder to which relative paths in the configuration refer; the current one by default.
        """
        environment = {key: value for key, value in os.environ.items() if not _OF_ONE_RUN.fullmatch(key)}
        environment |= self.variables
        if devices is not None:
            environment["CUDA_VISIBLE_DEVICES"] = devices
        self.folder.mkdir(parents=True, exist_ok=True)
        self.started = monotonic()
        with (self.folder / LOG).open("ab") as log:
            self.logged = log.tell()  # by earlier attempts
            self.process = subprocess.Popen(
                command(self.file),
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
        reason = self._last_error()
        if status.get("status") != "failed" and SPOILED not in status:
            known = f"{problem}: {reason}" if reason else f"{problem}, see {LOG}"
            write_json(self.folder / STATUS, {"status": "failed", "reason": known})
        return f"FAILED ({problem})" + (f": {reason}" if reason else "")

    def _last_error(self) -> str:
        """Return the last error that its log shows, without the traceback; empty if there is none."""
        with (self.folder / LOG).open("rb") as log:
            log.seek(max(self.logged, log.seek(0, os.SEEK_END) - 65536))
            found = _ERROR.findall(log.read().replace(b"\r", b"\n"))
        return found[-1].decode(errors="replace").strip() if found else ""


def command(file: Path) -> list[str]:
    """Return the command line of a job, which does not put the current folder on the import path."""
    return [sys.executable, "-P", "-m", "clipfuse.cli", "train", "--composed", str(file)]


def status_of(folder: Path) -> dict[str, Any]:
    """Return the status of a job as `read_status`; of a spoiled file only the reason, under `SPOILED`."""
    try:
        return read_status(folder)
    except UserError as error:
        return {SPOILED: str(error)}


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
