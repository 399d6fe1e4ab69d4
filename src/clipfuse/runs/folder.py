"""The run folder: how it is prepared, and the status of its run."""

import os
import re
import socket
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from clipfuse.errors import UserError, hidden
from clipfuse.files import PARTIAL, probe_folder, read_json, write_atomically, write_json
from clipfuse.runs.owner import LOCK, MARKER, is_held

STATUS = "status.json"
TRACEBACK = "traceback.txt"
LOG = "log.txt"  # a sweep has already opened it when the job starts
_SHOWN = 5  # names in a message


# Every file that a run writes, relative to its folder: what `overwrite` and a new beginning may remove.
_WRITTEN = re.compile(
    r"(status\.json|config\.yaml|command\.txt|(log|traceback)\.txt|metrics\.csv|\.lock(\.owner)?"
    r"|checkpoints/(best|last)\.ckpt"
    r"|test/(metrics\.json|per_image\.csv|panel\.png|(fused|color|infrared|visible|masks)/.+\.png)"
    r"|downstream/\w+/(metrics\.json|predicted/[\w.-]+/[^/]+\.png)"
    r"|notes/(words\.csv|settings\.txt|(train-)?\d+\.png)"
    r"|wandb/(offline-run-.+|run-.+|latest-run|debug[^/]*\.log|settings|sweep-.+|artifacts/.+)"
    r"|tensorboard/events\.out\.tfevents\..+)"
)
_PLACES = ("", "checkpoints", "test", "notes", "downstream")  # of files that are written atomically
_KEPT = {LOG, LOCK, MARKER}
_STATES = ("running", "finished", "failed")


class _Status(BaseModel):
    status: str
    reason: str | None = None
    objective: float | None = None
    pid: Annotated[int, Field(ge=1, lt=2**31)] = 1
    host: str = ""


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield each file below a folder, and each link, with its name relative to the folder."""
    for parent, folders, names in os.walk(folder):
        for name in [*names, *(each for each in folders if (Path(parent) / each).is_symlink())]:
            path = Path(parent) / name
            yield path, path.relative_to(folder).as_posix()


def _is_ours(name: str) -> bool:
    """Whether a run writes a file of this name, or leaves it half written when it is killed."""
    place, _, last = name.rpartition("/")
    half = PARTIAL.fullmatch(last) and place.partition("/")[0] in _PLACES
    return bool(half or _WRITTEN.fullmatch(name))


def prepare_folder(folder: Path, overwrite: bool, inputs: Mapping[str, str], resumes: bool = False) -> None:
    """Make an empty run folder, or accept that of the run being resumed; remove files left half written.

    Only files that runs write are removed, never a folder with something else in it.

    Args:
        folder: the run folder.
        overwrite: delete an earlier run that lies there.
        inputs: files and folders that the run reads, by their settings; they must survive.
        resumes: the run goes on in its own folder.

    Raises:
        UserError: the folder is in use and neither was asked for, it holds other files, or it cannot be
            written.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"the run folder {folder} is a file; choose another run_dir")
        if resumes:
            _remove(
                [path for path, name in _files(folder) if PARTIAL.fullmatch(path.name) and _is_ours(name)]
            )
        elif folder.exists():
            _clear(folder, overwrite, inputs)
        probe_folder(folder)
    except OSError as error:
        raise UserError(
            f"cannot write to the run folder {folder}: {error.strerror or error}; choose another run_dir"
        ) from error


def _clear(folder: Path, overwrite: bool, inputs: Mapping[str, str]) -> None:
    found: dict[Path, str] = {}
    foreign: list[str] = []
    for path, name in _files(folder):
        found[path] = name
        if not _is_ours(name):
            foreign.append(name)
        if len(foreign) > _SHOWN:  # enough of what may be a home folder
            foreign[_SHOWN:] = ["..."]
            break
    if foreign:
        raise UserError(
            f"the run folder {folder} holds files that are not a run's: {', '.join(foreign)}; choose another "
            "run_dir, or move them away"
        )
    begun = {name for path, name in found.items() if name not in _KEPT and not PARTIAL.fullmatch(path.name)}
    if begun and not _is_run(folder):
        raise UserError(
            f"the run folder {folder} holds files that are not a run: {', '.join(sorted(begun)[:_SHOWN])}; "
            "choose another run_dir, or move them away"
        )
    if begun and not overwrite:
        raise UserError(f"the run folder {folder} holds a run; choose another run_dir, or set overwrite=true")
    home = folder.resolve()
    for key, text in inputs.items() if begun else ():
        if os.path.exists(text) and home in ((path := Path(text).resolve()), *path.parents):
            raise UserError(
                f"overwriting the run folder {folder} would delete {text}, which {key} names; choose another "
                "run_dir"
            )
    # The status goes last: if this is killed in between, the folder still counts as a run.
    gone = [path for path, name in found.items() if name not in _KEPT]
    _remove(sorted(gone, key=lambda path: path == folder / STATUS))
    for place in (*_PLACES[1:], "wandb", "tensorboard"):
        for parent, _, _ in os.walk(folder / place, topdown=False):
            with suppress(OSError):  # not empty
                os.rmdir(parent)


def check_sweep_folder(folder: Path) -> None:
    """Refuse to begin a sweep in a folder that holds what no sweep writes.

    Raises:
        UserError: names it.
    """
    ours = re.compile(
        r"\d+|sweep\.yaml|multirun\.yaml|optimization_results\.yaml|\.submitit|\.jobs|downstream-sources"
    )
    own = {LOCK, MARKER}
    foreign = sorted(each.name for each in folder.iterdir() if not ours.fullmatch(each.name))
    foreign = [name for name in foreign if name not in own and not PARTIAL.fullmatch(name)]
    if foreign:
        more = ", ..." if len(foreign) > _SHOWN else ""
        raise UserError(
            f"the sweep folder {folder} holds what no sweep writes: {', '.join(foreign[:_SHOWN])}{more}; "
            "choose another by hydra.sweep.dir=X, or move it away"
        )


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _is_run(folder: Path) -> bool:
    """Whether a run wrote the status in a folder."""
    status = read_status(folder)
    return "reason" in status and status.get("status") in _STATES


def lies_in(file: str | None, folder: Path) -> bool:
    """Return whether `file` is somewhere below `folder`."""
    return file is not None and folder.resolve() in Path(file).resolve().parents


@contextmanager
def run_status(folder: Path, leads: bool = True) -> Iterator[dict[str, Any]]:
    """Keep `status.json` at running, then finished or failed with the reason.

    The stack of an error that is no plain mistake of the user's is written to `traceback.txt`.

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
        (folder / TRACEBACK).unlink(missing_ok=True)  # of a run that goes on
    try:
        yield extra
    except BaseException as error:
        known = {}
        with suppress(UserError):  # spoiled meanwhile: the first error is the one to report
            known = read_status(folder)
        if known.get("status") == "failed":
            if isinstance(error, RuntimeError) or isinstance(error.__cause__, RuntimeError):
                # This rank lost a connection; the rank that failed first has written the reason.
                raise UserError(f"another process of this run failed: {known['reason']}") from error
            raise
        reason = hidden(str(error)) or type(error).__name__
        if isinstance(error, KeyboardInterrupt | SystemExit):
            reason = "interrupted"
        with suppress(UserError):  # a full disk: the first error is the one to report
            write_json(folder / STATUS, {"status": "failed", "reason": reason, **extra})
            if isinstance(error, Exception) and (error.__cause__ or not isinstance(error, UserError)):
                with write_atomically(folder / TRACEBACK) as file:
                    file.write(hidden("".join(traceback.format_exception(error))))
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


def is_running(status: Mapping[str, Any], folder: Path | None = None) -> bool:
    """Return whether the run that wrote a status is still running.

    The lock of its folder decides. Where there is none, as in the folders of earlier versions, the run is
    running if its process is on this host and has not begun after the status was written.
    """
    if status.get("status") != "running":
        return False
    held = None if folder is None else is_held(folder)
    pid = status.get("pid")
    if held is not None or status.get("host") != socket.gethostname() or not isinstance(pid, int):
        return bool(held)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # the process of another user
    if folder is None or (begun := _begun(pid)) is None:
        return True
    return begun <= (folder / STATUS).stat().st_mtime + 1


def has_ended(status: Mapping[str, Any], folder: Path) -> bool:
    """Return whether a run left its status at running and its process is known to have ended."""
    if status.get("status") != "running" or (held := is_held(folder)):
        return False
    return held is False or (status.get("host") == socket.gethostname() and not is_running(status, folder))


def _begun(pid: int) -> float | None:
    """Return when a process began, in seconds since 1970; None where the system does not show it."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
