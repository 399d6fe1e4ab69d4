"""Jobs as processes; sweeps of them are in tests/cli/test_sweep.py."""

import os
import sys
from pathlib import Path

import pytest

from clipfuse.runs.folder import read_status
from hydra_plugins.clipfuse_launcher import _jobs
from hydra_plugins.clipfuse_launcher._jobs import Job, command, supervised


def test_a_job_is_the_command_line_of_this_python() -> None:
    words = [sys.executable, "-P", "-m", "clipfuse.cli", "train", "--composed", "job.yaml"]
    assert command(Path("job.yaml")) == words


def start(job: Job, code: str, monkeypatch: pytest.MonkeyPatch, devices: str | None = None) -> str:
    monkeypatch.setattr(_jobs, "command", lambda file: [sys.executable, "-S", "-c", code, str(file)])
    with supervised([job]):
        job.start(devices)
        return job.close()


OF_ONE_RUN = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "GROUP_RANK",
    "MASTER_ADDR",
)
OF_ONE_RUN += (
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
    "PL_GLOBAL_SEED",
    "SLURM_PROCID",
    "SLURM_NTASKS",
    "ROLE_RANK",
)
OF_ONE_RUN += ("SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "SLURM_STEPID", "SLURM_NTASKS_PER_NODE", "PMI_RANK")
OF_ONE_RUN += ("OMPI_COMM_WORLD_RANK", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_NAME", "WANDB_SWEEP_ID")
OF_ONE_RUN += ("MLFLOW_RUN_ID", "CUDA_VISIBLE_DEVICES")
KEPT = ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_MODE", "WANDB_RUN_GROUP", "SLURM_JOB_ID", "SLURM_TMPDIR")
KEPT += ("SLURM_CPUS_PER_TASK", "RANKING", "MY_RANK", "OMP_NUM_THREADS", "HTTP_PROXY")


def test_a_job_is_no_rank_of_its_parent_and_sees_its_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in OF_ONE_RUN:
        monkeypatch.setenv(name, "7")
    for name in KEPT:
        monkeypatch.setenv(name, "kept")
    job = Job(0, Path("seed=1"), tmp_path / "0", variables={"MINE": "given"})
    code = "import os, sys; print(sorted(os.environ.items())); print(sys.argv[1:])"
    start(job, code, monkeypatch, devices="2,3")
    log = (tmp_path / "0/log.txt").read_text()
    assert "('CUDA_VISIBLE_DEVICES', '2,3')" in log
    assert "'7'" not in log.splitlines()[0]
    assert log.splitlines()[0].count("'kept'") == len(KEPT)
    assert "('MINE', 'given')" in log
    assert log.splitlines()[1] == "['seed=1']"


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("raise SystemExit(3)", "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("pass", "exit code 0"),  # ended without a word of its run
    ],
)
def test_a_job_that_cannot_say_why_it_failed_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, problem: str
) -> None:
    job = Job(0, tmp_path, tmp_path / "0")
    assert start(job, code, monkeypatch) == f"FAILED ({problem})"
    assert read_status(job.folder) == {"status": "failed", "reason": f"{problem}, see log.txt"}


def test_the_progress_is_the_last_that_the_log_shows(tmp_path: Path) -> None:
    job = Job(0, tmp_path, tmp_path)
    (tmp_path / "log.txt").write_text("")
    assert job.progress() == "starting"
    line = "training:  35%|███       | 70/200 [00:01<00:02]"
    (tmp_path / "log.txt").write_text(f"{line}\r" * 200 + line.replace("70/200", "71/200"))
    assert job.progress() == "training 71/200"


def test_a_job_that_was_never_started_is_not_alive(tmp_path: Path) -> None:
    job = Job(0, tmp_path, tmp_path)
    job.send(9)
    assert not job.is_alive()
    assert os.listdir(tmp_path) == []
