"""One job: how it is started, how far it is, and what its end is called."""

import json
import os
import sys
from pathlib import Path

import pytest

from clipfuse.runs.folder import read_status
from hydra_plugins.clipfuse_launcher import _jobs
from hydra_plugins.clipfuse_launcher._jobs import Job, command


@pytest.mark.parametrize(
    ("log", "progress"),
    [
        ("", "starting"),
        ("run folder: s/0\n", "starting"),
        ("training:   5%|█    | 3/60 [00:01<00:21]", "training 3/60"),
        ("training: 50%|██| 3/6 [00:01]\rtraining: 100%|████| 6/6 [00:02]\rtest: 25%|█ | 1/4", "test 1/4"),
        ("training: 50%|██| 3/6" + "x" * 5000 + "\rtest: 75%|███ | 3/4", "test 3/4"),
    ],
)
def test_progress_is_the_last_that_its_log_tells(tmp_path: Path, log: str, progress: str) -> None:
    (tmp_path / "log.txt").write_text(log)
    assert Job(0, [], tmp_path).progress() == progress


@pytest.mark.parametrize(
    ("code", "status", "outcome", "reason"),
    [
        ("pass", {"status": "finished"}, "", None),
        ("pass", {"status": "running"}, "FAILED (exit code 0)", "exit code 0, see log.txt"),
        ("pass", None, "FAILED (exit code 0)", "exit code 0, see log.txt"),
        ("raise SystemExit(3)", {"status": "failed", "reason": "NaN"}, "FAILED (exit code 3)", "NaN"),
        ("raise SystemExit(3)", {"status": "finished"}, "FAILED (exit code 3)", "exit code 3, see log.txt"),
        ("os.kill(os.getpid(), 15)", None, "FAILED (killed by SIGTERM)", "killed by SIGTERM, see log.txt"),
    ],
)
def test_how_it_ended(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    status: dict[str, str] | None,
    outcome: str,
    reason: str | None,
) -> None:
    monkeypatch.setattr(_jobs, "command", lambda words: [sys.executable, "-S", "-c", f"import os; {code}"])
    job = Job(0, [], tmp_path)
    job.start()
    if status is not None:
        (tmp_path / "status.json").write_text(json.dumps(status))
    assert job.close() == outcome
    assert not job.is_alive()
    assert read_status(tmp_path).get("reason") == reason


def test_it_does_not_take_itself_for_a_rank_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
    monkeypatch.setattr(_jobs, "command", lambda words: [sys.executable, "-S", "-c", script, *words])
    for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "SLURM_PROCID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(key, "1")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for number in (1, 2):
        job = Job(0, ["seed=1"], tmp_path / "run")
        job.start(devices="4", cwd=str(tmp_path))
        job.close()
        words, environment = json.loads((tmp_path / "run/log.txt").read_text().splitlines()[-1])
        # The second attempt: the first has left a status.
        assert words == ["seed=1", *["auto_resume=true"] * (number - 1)]
        assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "SLURM_PROCID"} & set(environment)
        assert (environment["SLURM_JOB_ID"], environment["CUDA_VISIBLE_DEVICES"]) == ("7", "4")
    assert os.environ["RANK"] == "1"


def test_the_command_is_this_python() -> None:
    assert command(["seed=1"]) == [sys.executable, "-m", "clipfuse.cli", "train", "seed=1"]
