import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from clipfuse.errors import UserError
from clipfuse.files import write_json
from clipfuse.runs.folder import (
    check_sweep_folder,
    is_running,
    lies_in,
    prepare_folder,
    read_status,
    run_status,
)
from clipfuse.runs.owner import LOCK, owned


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """A folder with a run, and the log that a sweep has opened."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("status.json", "log.txt", "metrics.csv", "checkpoints/last.ckpt", ".0a1b2c3d.17.partial"):
        (run / name).write_text('{"status": "failed", "reason": null}')
    return run


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_an_overwritten_folder_keeps_the_log_alone(used: Path) -> None:
    prepare_folder(used, True, {})
    assert names(used) == {"log.txt"}


def test_a_resumed_folder_loses_only_what_is_half_written(used: Path) -> None:
    before = names(used)
    prepare_folder(used, False, {"checkpoint": str(used / "checkpoints/last.ckpt")}, resumes=True)
    assert names(used) == before - {".0a1b2c3d.17.partial"}


def test_what_is_not_overwritten(used: Path) -> None:
    before = names(used)
    with pytest.raises(UserError, match="holds a run; choose another run_dir, or set overwrite=true"):
        prepare_folder(used, False, {})
    with pytest.raises(UserError, match=r"would delete .*last\.ckpt"):
        prepare_folder(used, True, {"checkpoint": str(used / "checkpoints/last.ckpt")})
    (used / "status.json").unlink()
    with pytest.raises(UserError, match="holds files that are not a run"):
        prepare_folder(used, True, {})
    with pytest.raises(UserError, match="is a file; choose another run_dir"):
        prepare_folder(used / "metrics.csv", True, {})
    assert names(used) == before - {"status.json"}


@pytest.mark.parametrize(
    "name",
    [
        "notes.md",
        "data/ir/1.png",
        "checkpoints/mine.ckpt",
        "test/thesis.tex",
        "wandb/secret",
        "evaluate/status.json",
    ],
)
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_with_anything_else_is_refused_with_its_name(used: Path, name: str, overwrite: bool) -> None:
    (used / name).parent.mkdir(exist_ok=True, parents=True)
    (used / name).write_text("years of work")
    before = names(used)
    with pytest.raises(UserError, match=f"holds files that are not a run's: {name}; choose another run_dir"):
        prepare_folder(used, overwrite, {})
    assert names(used) == before


def test_many_other_files_are_named_in_part(used: Path) -> None:
    for index in range(50):
        (used / f"photo{index}.raw").touch()
    with pytest.raises(UserError, match=r"a run's: (photo\d+\.raw, ){5}\.\.\.; choose"):
        prepare_folder(used, True, {})


@pytest.mark.parametrize("status", ["{}", '{"status": "green"}', '{"status": "failed"}', "[1]", "", '{"sta'])
def test_the_status_of_another_program_makes_no_run(used: Path, status: str) -> None:
    (used / "status.json").write_text(status)
    before = names(used)
    with pytest.raises(UserError, match=r"a run: checkpoints/last\.ckpt, metrics\.csv|status\.json"):
        prepare_folder(used, True, {})
    assert names(used) == before


def test_everything_that_a_run_writes_is_removed_and_no_link_is_followed(used: Path, tmp_path: Path) -> None:
    written = [
        "config.yaml",
        "command.txt",
        "test/fused/a/b.png",
        "test/masks/x.png",
        "test/panel.png",
        "notes/000010.png",
    ]
    written += [
        "notes/settings.txt",
        "wandb/offline-run-2/files/x.yaml",
        "wandb/artifacts/staging/tmp1",
        "tensorboard/events.out.tfevents.1",
    ]
    written += ["checkpoints/.last.ckpt.4.partial", "checkpoints/best.ckpt", "test/per_image.csv", ".lock"]
    for name in written:
        (used / name).parent.mkdir(exist_ok=True, parents=True)
        (used / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/run").touch()
    (used / "wandb/latest-run").symlink_to(tmp_path / "elsewhere")
    (used / "empty").mkdir()
    prepare_folder(used, True, {})
    assert sorted(path.name for path in used.iterdir()) == [".lock", "empty", "log.txt"]
    assert (tmp_path / "elsewhere/run").is_file()


def test_what_the_new_run_reads_is_not_overwritten(used: Path) -> None:
    (used / "test/infrared").mkdir(parents=True)
    (used / "test/infrared/1.png").touch()
    before = names(used)
    for place in ("test", ".", "test/infrared/1.png"):
        with pytest.raises(UserError, match=r"would delete .*, which data\.root names"):
            prepare_folder(used, True, {"data.root": str(used / place)})
    assert names(used) == before


def test_a_sweep_begins_in_a_folder_of_its_own(tmp_path: Path) -> None:
    for name in ("0", "sweep.yaml", "multirun.yaml", ".submitit", ".lock"):
        (tmp_path / name).mkdir()
    check_sweep_folder(tmp_path)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"holds what no sweep writes: thesis\.tex; choose another"):
        check_sweep_folder(tmp_path)


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


def test_which_runs_are_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"status": "running", "host": socket.gethostname(), "pid": os.getpid()}
    assert is_running(here)
    assert not is_running(here | {"status": "failed"})
    assert not is_running(here | {"host": "elsewhere"})  # no lock stands for it
    assert not is_running({"status": "running", "host": "elsewhere"})

    def kill(pid: int, number: int) -> None:
        raise ProcessLookupError if pid == 1 else PermissionError

    with owned(tmp_path):
        assert is_running(here | {"host": "renamed", "pid": 1}, tmp_path)
        write_json(tmp_path / "status.json", here)
    assert is_running(here, tmp_path)  # of an earlier version, without a lock
    os.utime(tmp_path / "status.json", (0, 0))  # long before this process began, which has its number again
    assert not is_running(here, tmp_path)
    (tmp_path / LOCK).touch()  # of a process that was killed
    assert not is_running(here, tmp_path)
    monkeypatch.setattr(os, "kill", kill)
    assert not is_running(here | {"pid": 1})
    assert is_running(here | {"pid": 2})  # of another user


def test_the_status_is_json_for_others(tmp_path: Path) -> None:
    with run_status(tmp_path):
        pass
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "finished"


def test_the_files_of_a_real_run_are_all_on_the_list(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run/log.txt").touch()
    prepare_folder(tmp_path / "run", True, {})
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["log.txt"]
