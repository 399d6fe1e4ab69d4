"""One owner per folder: a lock of the operating system, which ends with the process that holds it."""

import errno
import json
import os
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from clipfuse.errors import UserError
from clipfuse.files import read_json, read_text

LOCK = ".lock"  # holds who owns the folder; removed by its owner, left behind by a killed one
MARKER = ".lock.owner"  # in its place on a file system without locks
_KEYS = {"run": "run_dir", "sweep": "hydra.sweep.dir", "source": "out"}
_WAIT = 0.5  # seconds: those who only look hold the lock for a moment
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


@contextmanager
def owned(folder: Path, leads: bool = True, kind: str = "run", wait: bool = False) -> Iterator[None]:
    """Own a folder until the end of the block or of this process, whichever comes first.

    The folder is made if it is missing, and taken away at the end if nothing was put into it. Where the file
    system has no locks, a file with host, process and its start time stands for the lock, with a warning; one
    of a process that has ended is replaced.

    Args:
        folder: a run folder, or the folder of a sweep or study.
        leads: whether this process owns it; the other ranks of a run do not.
        kind: "run", "sweep" or "source", for messages.
        wait: whether to wait until another process gives it back.

    Raises:
        UserError: another process owns it, or the folder cannot be made.
    """
    if not leads:
        yield
        return
    made = _missing(folder)
    lock = None
    try:
        try:
            while lock is None:
                _make(folder, exist_ok=True)
                try:
                    lock = _acquired(folder, -1 if wait else _WAIT)
                except FileNotFoundError:  # its owner has put nothing into it, and has taken it away
                    if not wait:
                        raise
        except Timeout:
            raise UserError(
                f"the {kind} folder {folder} is in use by {_described(folder)}; wait for it or stop it, or "
                f"choose another {_KEYS[kind]}"
            ) from None
        except FileExistsError:
            raise UserError(f"the {kind} folder {folder} is a file; choose another {_KEYS[kind]}") from None
        except OSError as error:
            raise UserError(
                f"cannot write to the {kind} folder {folder}: {error.strerror or error}; choose another "
                f"{_KEYS[kind]}"
            ) from error
        yield
    finally:
        if lock is not None:
            _release(folder, lock)
        _remove_empty(made)


def is_held(folder: Path) -> bool | None:
    """Return whether a process owns a folder; None where nothing in it shows that."""
    locks = (
        FileLock(folder / LOCK, timeout=0, fallback_to_soft=False),
        SoftFileLock(folder / MARKER, timeout=0),
    )
    for lock in locks:
        if Path(lock.lock_file).is_file():
            try:
                with lock:
                    return False
            except Timeout:
                return True
            except (OSError, NotImplementedError):
                continue  # of another user, or on a medium that cannot be written or has no locks
    return None


@contextmanager
def claimed(folder: Path, kind: str = "run") -> Iterator[Path]:
    """Make a folder that nobody else gets: the one given, or the first free one with a number behind it.

    It is taken away at the end if nothing was put into it.

    Raises:
        UserError: it cannot be made.
    """
    made = _missing(folder)
    for number in count(1):
        free = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            _make(free)
            break
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(
                f"cannot write to the {kind} folder {free}: {error.strerror or error}; choose another "
                f"{_KEYS[kind]}"
            ) from error
    try:
        yield free
    finally:
        _remove_empty([free, *made])


def _missing(folder: Path) -> list[Path]:
    """Return the folder and its parents as far as they are not there, innermost first."""
    return [each for each in (folder, *folder.parents) if not each.exists()]


def _remove_empty(folders: Sequence[Path]) -> None:
    for each in folders:
        with suppress(OSError):  # not empty, or not there
            each.rmdir()


def _make(folder: Path, exist_ok: bool = False, tries: int = 9) -> None:
    """Make a folder and its parents, which others may take away or make at the same moment."""
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
    except FileNotFoundError:
        if not tries:
            raise
        _make(folder, exist_ok, tries - 1)


def _acquired(folder: Path, seconds: float) -> BaseFileLock:
    lock: BaseFileLock = FileLock(folder / LOCK, timeout=seconds, fallback_to_soft=False, thread_local=False)
    try:
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        lacks = isinstance(error, NotImplementedError) or error.errno in _NO_LOCKS
        if isinstance(error, Timeout) or not lacks:
            raise
        with suppress(OSError):
            (folder / LOCK).unlink()
        warnings.warn(
            f"the file system of {folder} has no locks: {folder / MARKER}, with this process and its host, "
            "stands for one; of two processes on different hosts keep one away yourself",
            stacklevel=2,
        )
        lock = SoftFileLock(folder / MARKER, timeout=seconds, thread_local=False)
        lock.acquire()
        return lock
    with suppress(OSError):
        (folder / LOCK).write_text(json.dumps(_holder()), encoding="utf-8")
    return lock


def _holder() -> dict[str, Any]:
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


def _release(folder: Path, lock: BaseFileLock) -> None:
    if isinstance(lock, FileLock) and _read(folder).get("pid") == os.getpid():
        with suppress(OSError):  # who opened it meanwhile finds that it has no name, and starts over
            (folder / LOCK).unlink()
    with suppress(OSError):
        lock.release()


def _read(folder: Path) -> Mapping[str, Any]:
    with suppress(UserError):
        content: Mapping[str, Any] = read_json(folder / LOCK, default={})
        return content
    return {}


def _described(folder: Path) -> str:
    known = _read(folder)
    if known:
        return f"process {known.get('pid')} on {known.get('host')} since {known.get('since')}"
    with suppress(OSError, ValueError, UserError):
        pid, host, *_ = read_text(folder / MARKER).splitlines()
        since = datetime.fromtimestamp((folder / MARKER).stat().st_mtime).astimezone()
        return (
            f"process {pid} on {host.partition('?')[0]} since {since.isoformat(timespec='seconds')} (if "
            f"there is no such process any more, remove {folder / MARKER})"
        )
    return "another process"
