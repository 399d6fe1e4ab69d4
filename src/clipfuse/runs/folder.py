"""The run folder: how it is prepared, and the status of its run."""

import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from clipfuse.errors import UserError, hidden
from clipfuse.files import PARTIAL, probe_folder, read_json, write_json

STATUS = "status.json"
LOG = "log.txt"  # a sweep has already opened it when the job starts


class _Status(BaseModel):
    status: str
    reason: str | None = None
    objective: float | None = None
    pid: Annotated[int, Field(ge=1, lt=2**31)] = 1
    host: str = ""


def _remove_partial(folder: Path) -> None:
    for path in folder.rglob(".*"):
        if PARTIAL.fullmatch(path.name):
            path.unlink()


def prepare_folder(folder: Path, overwrite: bool, checkpoint: str | None, resumes: bool = False) -> None:
    """Make an empty run folder, or accept that of the run being resumed; remove files left half written.

    Args:
        folder: the run folder.
        overwrite: delete an earlier run that lies there.
        checkpoint: a file that must survive.
        resumes: the run goes on in its own folder.

    Raises:
        UserError: the folder is in use and neither was asked for, or it cannot be written.
    """
    try:
        if resumes:
            _remove_partial(folder)
        elif folder.exists():
            _clear(folder, overwrite, checkpoint)
        probe_folder(folder)
    except OSError as error:
        raise UserError(
            f"cannot write to the run folder {folder}: {error.strerror or error}; choose another run_dir"
        ) from error


def _clear(folder: Path, overwrite: bool, checkpoint: str | None) -> None:
    if not folder.is_dir():
        raise UserError(f"the run folder {folder} is a file; choose another run_dir")
    if {path.name for path in folder.iterdir() if not PARTIAL.fullmatch(path.name)} <= {LOG}:
        _remove_partial(folder)
        return
    if not (folder / STATUS).is_file():
        raise UserError(f"the run folder {folder} holds files that are not a run; choose another run_dir")
    if not overwrite:
        raise UserError(f"the run folder {folder} holds a run; choose another run_dir, or set overwrite=true")
    if lies_in(checkpoint, folder):
        raise UserError(
            f"overwriting the run folder {folder} would delete {checkpoint}; choose another run_dir"
        )
    # The status goes last: if this is killed in between, the folder still counts as a run.
    for path in sorted(folder.iterdir(), key=lambda path: path.name == STATUS):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOG:
            path.unlink()


def lies_in(file: str | None, folder: Path) -> bool:
    """Return whether `file` is somewhere below `folder`."""
    return file is not None and folder.resolve() in Path(file).resolve().parents


@contextmanager
def run_status(folder: Path, leads: bool = True) -> Iterator[dict[str, Any]]:
    """Keep `status.json` at running, then finished or failed with the reason.

    Args:
        folder: the run folder.
        leads: whether this process writes it; another rank of the run does so only when it fails first.

    Yields:
        A mapping whose entries are written into the file at the end.

    Raises:
        UserError: this rank failed because another one had.
    """
    extra: dict[str, Any] = {}
    if leads:
        process = {"pid": os.getpid(), "host": socket.gethostname()}
        write_json(folder / STATUS, {"status": "running", "reason": None, **process})
    try:
        yield extra
    except BaseException as error:
        known = {}
        with suppress(UserError):  # spoiled meanwhile: the first error is the one to report
            known = read_status(folder)
        if known.get("status") == "failed":
            if isinstance(error, RuntimeError):
                # This rank lost a connection; the rank that failed first has written the reason.
                raise UserError(f"another process of this run failed: {known['reason']}") from error
            raise
        reason = hidden(str(error)) or type(error).__name__
        if isinstance(error, KeyboardInterrupt | SystemExit):
            reason = "interrupted"
        with suppress(UserError):  # a full disk: the first error is the one to report
            write_json(folder / STATUS, {"status": "failed", "reason": reason, **extra})
        raise
    if leads:
        write_json(folder / STATUS, {"status": "finished", "reason": None, **extra})


def read_status(folder: Path) -> dict[str, Any]:
    """Return the content of `status.json`; empty where there is no such file.

    Raises:
        UserError: it cannot be read, or is no status.
    """
    remedy = "restore it, or choose another run_dir"
    return dict(read_json(folder / STATUS, _Status, default={}, remedy=remedy))


def is_running(status: Mapping[str, Any]) -> bool:
    """Return whether the run that wrote a status is still running.

    A run on another host is assumed to be running if it recorded a pid.
    """
    if status.get("status") != "running":
        return False
    if status.get("host") != socket.gethostname():
        return "pid" in status
    try:
        os.kill(status["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # the process of another user
    return True
