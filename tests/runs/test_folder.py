import json
import os
import socket
from pathlib import Path

import pytest

from clipfuse.errors import UserError
from clipfuse.runs.folder import is_running, lies_in, prepare_folder, read_status, run_status


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """A folder with a run, and the log that a sweep has opened."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("status.json", "log.txt", "metrics.csv", "checkpoints/last.ckpt", ".0a1b2c3d.17.partial"):
        (run / name).write_text("{}")
    return run


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_an_overwritten_folder_keeps_the_log_alone(used: Path) -> None:
    prepare_folder(used, overwrite=True, checkpoint=None)
    assert names(used) == {"log.txt"}


def test_a_resumed_folder_loses_only_what_is_half_written(used: Path) -> None:
    before = names(used)
    prepare_folder(used, overwrite=False, checkpoint=str(used / "checkpoints/last.ckpt"), resumes=True)
    assert names(used) == before - {".0a1b2c3d.17.partial"}


def test_what_is_not_overwritten(used: Path) -> None:
    before = names(used)
    with pytest.raises(UserError, match="holds a run; choose another run_dir, or set overwrite=true"):
        prepare_folder(used, overwrite=False, checkpoint=None)
    with pytest.raises(UserError, match=r"would delete .*last\.ckpt"):
        prepare_folder(used, overwrite=True, checkpoint=str(used / "checkpoints/last.ckpt"))
    (used / "status.json").unlink()
    with pytest.raises(UserError, match="holds files that are not a run"):
        prepare_folder(used, overwrite=True, checkpoint=None)
    with pytest.raises(UserError, match="is a file; choose another run_dir"):
        prepare_folder(used / "metrics.csv", overwrite=True, checkpoint=None)
    assert names(used) == before - {"status.json"}


def test_a_file_lies_in_its_folders(tmp_path: Path) -> None:
    assert lies_in(str(tmp_path / "a/b/c"), tmp_path / "a")
    assert not lies_in(str(tmp_path / "ab/c"), tmp_path / "a")
    assert not lies_in(None, tmp_path)


def test_the_status_of_a_run_that_ends_well(tmp_path: Path) -> None:
    with run_status(tmp_path) as extra:
        running = read_status(tmp_path)
        extra["objective"] = 0.5
    assert (running["status"], running["pid"]) == ("running", os.getpid())
    assert read_status(tmp_path) == {"status": "finished", "reason": None, "objective": 0.5}
    assert read_status(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UserError("no such file"), "no such file"),
        (ValueError(), "ValueError"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_the_status_of_a_run_that_fails(tmp_path: Path, error: BaseException, reason: str) -> None:
    with pytest.raises(type(error)), run_status(tmp_path):
        raise error
    assert read_status(tmp_path) == {"status": "failed", "reason": reason}


def test_another_rank_writes_only_if_it_fails_first(tmp_path: Path) -> None:
    with run_status(tmp_path, leads=False):
        assert read_status(tmp_path) == {}
    assert read_status(tmp_path) == {}
    with pytest.raises(UserError), run_status(tmp_path, leads=False):
        raise UserError("rank 1 has no data")
    reason = "another process of this run failed: rank 1 has no data"
    with pytest.raises(UserError, match=reason), run_status(tmp_path, leads=False):
        raise RuntimeError("connection reset by peer")
    assert read_status(tmp_path)["reason"] == "rank 1 has no data"


def test_which_runs_are_running(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"status": "running", "host": socket.gethostname(), "pid": os.getpid()}
    assert is_running(here)
    assert not is_running(here | {"status": "failed"})
    assert is_running(here | {"host": "elsewhere"})
    assert not is_running({"status": "running", "host": "elsewhere"})

    def kill(pid: int, number: int) -> None:
        raise ProcessLookupError if pid == 1 else PermissionError

    monkeypatch.setattr(os, "kill", kill)
    assert not is_running(here | {"pid": 1})
    assert is_running(here | {"pid": 2})  # of another user


def test_the_status_is_json_for_others(tmp_path: Path) -> None:
    with run_status(tmp_path):
        pass
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "finished"
