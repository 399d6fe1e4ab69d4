"""Sweeps beyond this process: Ray, submitit, Optuna, W&B; DDP and Ctrl-C with real jobs."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from clipfuse.cli.config import check_config, conf_dir
from clipfuse.cli.train import GROUPS
from clipfuse.runs.folder import is_running, read_status
from clipfuse.runs.train import TrainSettings

Clipfuse = Callable[..., tuple[int, str, str]]
TOKEN = secrets.token_hex(32)


@pytest.fixture
def tiny(pairs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words of a run of a second; the current folder is an empty one."""
    monkeypatch.chdir(tmp_path)
    words = [f"data.root={pairs_folder}", "data=folder", "trainer=cpu", "steps=4", "validate_every=2"]
    words += ["loader.crop_size=32", "loader.batch_size=2", "backbone=conv_tiny", "backbone.width=4"]
    return [*words, "backbone.depth=0", "test=false", "objective=val/metric/SSIM", "hydra.sweep.dir=s"]


@pytest.fixture
def ray_address(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray head on this machine, started in a folder that is not that of the sweep.

    A head wants a token if there is one in the user's folder, as any earlier use of Ray may leave it, but
    whoever names an address sends one only if told to. Both get the mode and the token of these tests.
    """
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2"]
    command += [f"--port={port}", "--include-dashboard=false", "--disable-usage-stats"]
    folder = tmp_path_factory.mktemp("head")
    with (folder / "log").open("w") as log:
        head = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    while "--block" not in (folder / "log").read_text():
        assert head.poll() is None, (folder / "log").read_text()
        time.sleep(0.2)
    yield f"127.0.0.1:{port}"
    head.terminate()
    head.wait(timeout=60)


def statuses(sweep: Path) -> list[str]:
    return [read_status(folder).get("status") for folder in sorted(sweep.glob("[0-9]*"))]


def interrupt(words: list[str], number: int) -> int:
    """Start a sweep, send it a signal when two jobs are training, return its exit code."""
    command = [sys.executable, "-m", "clipfuse.cli", "train", "-m", *words]
    sweep = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    logs = [Path(f"s/{index}/log.txt") for index in range(2)]
    while not all(log.exists() and "0/100000" in log.read_text() for log in logs):
        assert sweep.poll() is None
        time.sleep(0.1)
    left = pids()
    sweep.send_signal(number)
    _, errors = sweep.communicate(timeout=120)
    assert "Traceback" not in errors
    assert_closed(left)
    return sweep.returncode


def pids() -> list[int]:
    return [read_status(folder)["pid"] for folder in Path("s").glob("[0-9]*")]


def assert_closed(left: list[int]) -> None:
    """Both runs say that they were interrupted, and none of their processes lives on."""
    for job in range(2):
        status = read_status(Path(f"s/{job}"))
        assert (status["status"], status["reason"]) == ("failed", "interrupted")
    assert not Path("s/2").exists()
    deadline = time.monotonic() + 60
    while any(is_running({"status": "running", "host": socket.gethostname(), "pid": pid}) for pid in left):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.reliability
def test_ray(clipfuse: Clipfuse, tiny: list[str], ray_address: str) -> None:
    """A failing job among three, then the rest by sweep.resume without Ray."""
    words = [*tiny, "hydra/launcher=ray", f"hydra.launcher.ray.init.address={ray_address}"]
    code, output, errors = clipfuse("train", "-m", *words, "loss.gradient_weight=-1,5,6")
    assert code == 2
    assert "1 of 3 jobs failed; see s/0/log.txt" in errors
    assert "job 2: loss.gradient_weight=6 ... done" in output
    assert statuses(Path("s")) == ["failed", "finished", "finished"]
    assert OmegaConf.load("s/2/config.yaml").run_dir == "s/2"
    assert OmegaConf.load("s/2/config.yaml").loss.gradient_weight == 6
    assert Path("s/2/checkpoints/last.ckpt").is_file()
    code, output, _ = clipfuse("train", "sweep.resume=s", "hydra/launcher=clipfuse")
    assert code == 2
    assert output.count("done before") == 2


@pytest.mark.reliability
def test_a_ray_sweep_is_stopped(tiny: list[str], ray_address: str) -> None:
    words = [*tiny, "steps=100000", "hydra/launcher=ray", f"hydra.launcher.ray.init.address={ray_address}"]
    assert interrupt([*words, "seed=0,1"], signal.SIGINT) == 130


@pytest.mark.reliability
def test_submitit(clipfuse: Clipfuse, tiny: list[str]) -> None:
    code, _, errors = clipfuse(
        "train", "-m", *tiny, "hydra/launcher=submitit_local", "loss.gradient_weight=-1,5"
    )
    assert code == 2
    assert "1 of 2 jobs failed; see s/0/log.txt" in errors
    assert statuses(Path("s")) == ["failed", "finished"]
    assert OmegaConf.load("s/1/config.yaml").run_dir == "s/1"


@pytest.mark.reliability
def test_submitit_asks_slurm_for_what_the_file_says(
    clipfuse: Clipfuse, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a `sbatch` that only keeps the script it was given."""
    binaries = Path("bin").absolute()
    binaries.mkdir()
    (binaries / "sbatch").write_text(f"#!/bin/sh\ncp $1 {binaries}/script; echo No partition >&2; exit 1\n")
    (binaries / "srun").write_text("#!/bin/sh\n")
    for file in binaries.iterdir():
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")
    words = [*tiny, "hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "hydra.launcher.qos=low"]
    code, _, errors = clipfuse("train", "-m", *words, "hydra.launcher.gpus_per_node=2", "seed=0,1")
    assert code == 2
    assert "clipfuse: error: SlurmLauncher:" in errors
    assert "sweep.resume=s" in errors
    script = (binaries / "script").read_text()
    for line in (
        "partition=gpu",
        "qos=low",
        "gpus-per-node=2",
        "ntasks-per-node=1",
        "time=1440",
        "array=0-1%2",
    ):
        assert f"#SBATCH --{line}\n" in script


@pytest.mark.reliability
def test_a_search_for_two_weights_of_a_loss(clipfuse: Clipfuse, tiny: list[str]) -> None:
    """Three trials; resumed without the second, the search is the same."""
    weights = ["loss.gradient_weight=tag(log,interval(1,20))", "loss.ssim_weight=interval(0,2)"]
    words = [*tiny, "optimizer.lr=1e-2", "sweep=optuna", "hydra.sweeper.n_trials=3", *weights]
    assert clipfuse("train", "-m", *words)[0] == 0
    objectives = [read_status(Path(f"s/{number}"))["objective"] for number in range(3)]
    assert len(set(objectives)) == 3
    best = objectives.index(max(objectives))
    found = OmegaConf.load("s/optimization_results.yaml")
    assert found.best_value == objectives[best]
    loss = OmegaConf.load(f"s/{best}/config.yaml").loss
    assert (loss.gradient_weight, loss.ssim_weight) == tuple(found.best_params.values())
    status = Path("s/1/status.json")
    status.write_text(json.dumps({"status": "failed", "reason": "interrupted"}))
    (status.parent / "checkpoints/last.ckpt").unlink()
    code, output, _ = clipfuse("train", "-m", "sweep.resume=s")
    assert code == 0
    assert output.count("done before") == 2
    assert read_status(Path("s/1"))["objective"] == objectives[1]
    assert OmegaConf.load("s/optimization_results.yaml") == found


@pytest.mark.reliability
def test_two_jobs_of_two_processes_each(clipfuse: Clipfuse, tiny: list[str]) -> None:
    """Side by side; each trains in its own folder with two ranks."""
    words = [*tiny, "trainer=ddp_cpu", "hydra.launcher.max_parallel=2", "loss.gradient_weight=5,6"]
    code, _, errors = clipfuse("train", "-m", *words)
    assert code == 0, errors
    for number in range(2):
        folder = Path(f"s/{number}")
        assert OmegaConf.load(folder / "config.yaml").loss.gradient_weight == 5 + number
        status = read_status(folder)
        assert (status["status"], status["samples_seen"]) == ("finished", 4 * 2 * 2)
    assert len(list(Path("s").glob("*/config.yaml"))) == 2


@pytest.mark.reliability
@pytest.mark.parametrize("trainer", ["cpu", "ddp_cpu"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_real_jobs_are_stopped(tiny: list[str], trainer: str, number: int, code: int) -> None:
    words = [*tiny, f"trainer={trainer}", "steps=100000", "hydra.launcher.max_parallel=2", "seed=0,1,2"]
    assert interrupt(words, number) == code


@pytest.mark.parametrize("name", ["grid", "bayes"])
def test_the_command_of_a_wandb_sweep_composes(name: str) -> None:
    """Filled in by W&B's own code, with the first or the least value of each parameter."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load((conf_dir() / f"wandb/{name}.yaml").read_text())
    values = {
        key: {"value": part.get("values", [part.get("min")])[0]} for key, part in sweep["parameters"].items()
    }
    command = create_sweep_command(sweep["command"])
    assert command[:2] == ["clipfuse", "train"]
    place = command.index("${args_no_hyphens}")
    words = [*command[2:place], *create_sweep_command_args({"args": values})["args_no_hyphens"]]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", [*words, "name=test"])
    check_config(config, TrainSettings, GROUPS)
    for key, value in values.items():
        assert OmegaConf.select(config, key) == value["value"]
    assert sweep["metric"]["name"] == config.objective
    assert config.logger.wandb.project == sweep["project"]
