"""A folder has one owner, however its processes end, and wherever it lies."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from filelock import UnixFileLock

from clipfuse.errors import UserError
from clipfuse.runs.owner import LOCK, MARKER, claimed, is_held, owned

HOLD = """
import os, sys, time
from pathlib import Path
from clipfuse.runs.owner import owned
with owned(Path(sys.argv[1])):
    if sys.argv[2:] == ["fork"]:  # as a worker of a loader
        parent, child = os.pipe()
        if os.fork() == 0:
            os.write(child, b"started")
            time.sleep(60)
        os.read(parent, 1)
    print("held", flush=True)
    time.sleep(60)
"""


def end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def holder() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process that owns a folder."""
    with ExitStack() as started:

        def start(folder: Path, *words: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", HOLD, str(folder), *words]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
            started.callback(end, process)
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            return process

        yield start


def test_a_second_process_is_refused_at_once_with_who_holds_it(
    tmp_path: Path, holder: Callable[..., subprocess.Popen[str]]
) -> None:
    process = holder(tmp_path / "run")
    begun = time.monotonic()
    with pytest.raises(UserError) as caught, owned(tmp_path / "run"):
        pass
    assert time.monotonic() - begun < 5
    assert f"is in use by process {process.pid} on {os.uname().nodename} since 20" in str(caught.value)
    assert is_held(tmp_path / "run")
    # Moved while it is held: the lock goes with the folder.
    (tmp_path / "run").rename(tmp_path / "moved")
    with (
        pytest.raises(UserError, match=rf"moved is in use by process {process.pid} "),
        owned(tmp_path / "moved"),
    ):
        pass


@pytest.mark.parametrize("words", [(), ("fork",)], ids=["alone", "with workers"])
def test_the_lock_dies_with_its_process(
    tmp_path: Path, holder: Callable[..., subprocess.Popen[str]], words: tuple[str, ...]
) -> None:
    process = holder(tmp_path / "run", *words)
    process.kill()
    process.wait()
    assert is_held(tmp_path / "run") is False
    with owned(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run" / LOCK).exists()


def test_nothing_is_left_of_an_owner_that_wrote_nothing(tmp_path: Path) -> None:
    with owned(tmp_path / "a" / "b" / "run"):
        assert is_held(tmp_path / "a/b/run")
    assert list(tmp_path.iterdir()) == []
    with owned(tmp_path / "run"):
        (tmp_path / "run/file").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["file"]
    assert is_held(tmp_path / "run") is None
    with owned(tmp_path / "rank", leads=False):
        assert not (tmp_path / "rank").exists()


def test_what_cannot_be_owned_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"the run folder .*file is a file; choose another run_dir"),
        owned(tmp_path / "file"),
    ):
        pass
    with (
        pytest.raises(UserError, match=r"cannot write to the run folder .*Not a directory"),
        owned(tmp_path / "file" / "run"),
    ):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_without_locks_host_process_and_start_time_stand_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    folder, marker = tmp_path / "run", tmp_path / "run" / MARKER
    warned = "has no locks: .*, with this process and its host"
    with warnings.catch_warnings(record=True) as caught, owned(folder):
        assert re.search(warned, str(caught[0].message))
        pid, host, begun = marker.read_text().splitlines()
        assert is_held(folder)
        refused = pytest.raises(UserError, match=rf"in use by process {os.getpid()} on .* since 20.*remove")
        with refused, pytest.warns(UserWarning, match=warned), owned(folder):
            pass
    assert not folder.exists()
    ended = subprocess.Popen(["true"])
    ended.wait()
    for text in (f"{ended.pid}\n{host}\n{begun}\n", f"{pid}\n{host}\n{int(begun) - 1}\n"):  # gone; used again
        folder.mkdir(exist_ok=True)
        marker.write_text(text)
        assert is_held(folder) is False
        marker.write_text(text)
        with pytest.warns(UserWarning, match=warned), owned(folder):
            found = marker.read_text().splitlines()
        assert found == [pid, host, begun]


def test_another_error_of_a_lock_is_no_lack_of_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(UnixFileLock, "_acquire", fail)
    with pytest.raises(UserError, match="Input/output error"), owned(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_folders_that_are_claimed_at_once_differ(tmp_path: Path) -> None:
    def claim(index: int) -> str:
        with claimed(tmp_path / "runs" / "now") as folder:
            (folder / "file").write_text(str(index))
            return folder.name

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(claim, range(24)))
    assert sorted(names) == sorted(["now", *(f"now-{number}" for number in range(2, 25))])
    with claimed(tmp_path / "unused") as folder:
        assert folder.is_dir()
    assert not folder.exists()


def test_who_waits_gets_the_folder_when_it_is_given_back(tmp_path: Path) -> None:
    from threading import Event, Thread

    held, events = Event(), []

    def hold() -> None:
        with owned(tmp_path / "source"):
            held.set()
            time.sleep(0.8)  # longer than who does not wait would try
            events.append("given back")

    holder = Thread(target=hold)
    holder.start()
    held.wait()
    with owned(tmp_path / "source", kind="source", wait=True):
        events.append("owned")
    holder.join()
    assert events == ["given back", "owned"]
