import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb
from omegaconf import DictConfig, OmegaConf

from clipfuse.engine.loggers import CsvLogger, RunWandbLogger, login_mode
from clipfuse.engine.module import SAMPLES_SEEN
from clipfuse.engine.run import train
from clipfuse.errors import UserError

Config = Callable[..., DictConfig]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_values_of_one_step_share_a_row_and_new_columns_join(tmp_path: Path) -> None:
    logger = CsvLogger(str(tmp_path))
    logger.log_metrics({SAMPLES_SEEN: 8, "train/loss/total": 0.5}, step=1)
    logger.log_metrics({SAMPLES_SEEN: 8, "val/loss/total": 0.7}, step=1)
    logger.log_metrics({SAMPLES_SEEN: 16, "train/loss/total": 0.25, "epoch": 0}, step=2)
    logger.finalize("success")
    assert rows(tmp_path) == [
        {"step": "1", SAMPLES_SEEN: "8", "train/loss/total": "0.5", "val/loss/total": "0.7"},
        {"step": "2", SAMPLES_SEEN: "16", "train/loss/total": "0.25", "val/loss/total": ""},
    ]


def test_a_resumed_run_keeps_earlier_rows_and_drops_those_it_repeats(tmp_path: Path) -> None:
    first = CsvLogger(str(tmp_path), flush_every=1)
    for step in (1, 2, 3):
        first.log_metrics({SAMPLES_SEEN: 8 * step, "a": step}, step=step)
    second = CsvLogger(str(tmp_path))
    second.log_metrics({SAMPLES_SEEN: 24, "a": 30}, step=3)
    second.save()
    assert [row["a"] for row in rows(tmp_path)] == ["1", "2", "30"]


def read_back(run_dir: Path) -> dict[str, Any]:
    (run,) = (run_dir / "wandb").glob("offline-run-*")
    reader = [
        str(Path(sys.executable).with_name("wandb")),
        "leet",
        "inspect",
        "--summary",
        "--json",
        str(run),
    ]
    found: dict[str, Any] = json.loads(
        subprocess.run(reader, capture_output=True, check=True, text=True).stdout
    )
    return found


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.mark.usefixtures("offline")
def test_offline_run_holds_config_scores_and_panel(
    tiny_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config("logger=wandb")
    train(config)
    output = capsys.readouterr().out
    (run,) = (tmp_path / "run/wandb").glob("offline-run-*")
    assert output.count("wandb sync") == 1
    assert f"wandb sync {run}" in output
    found = read_back(tmp_path / "run")
    recorded = OmegaConf.to_container(OmegaConf.load(tmp_path / "run/config.yaml"))
    assert {key: value for key, value in found["config"].items() if key != "_wandb"} == recorded
    assert recorded["backbone"]["width"] == 8
    assert len(recorded["split_sha256"]) == 64
    scores = json.loads((tmp_path / "run/test/metrics.json").read_text())["mean"]
    for name, mean in scores.items():
        if mean is None:
            assert f"test/{name}" not in found["summary"]
            assert found["summary"][f"test/undefined/{name}"] == 2
            continue
        assert found["summary"][f"test/{name}"] == pytest.approx(mean)
    assert found["summary"][SAMPLES_SEEN] == 12
    assert found["summary"]["test/panel"]["count"] == 1
    assert found["exit_code"] == 0
    assert found["name"] == "tiny"


@pytest.mark.usefixtures("offline")
def test_a_failed_run_is_shown_as_failed(tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too small for patches"):
        train(tiny_config("logger=wandb", "loader.crop_size=200"))
    assert read_back(tmp_path / "run")["exit_code"] == 1


def test_training_goes_on_offline_when_wandb_cannot_connect(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = wandb.init

    def unreachable(*arguments: Any, mode: str, **keywords: Any) -> Any:
        if mode == "online":
            raise wandb.errors.CommError("no route to host")
        return start(*arguments, mode=mode, **keywords)

    monkeypatch.setattr(wandb, "init", unreachable)
    train(tiny_config("logger=wandb", "logger.wandb.mode=online", "test=false"))
    assert "mode 'online' and training goes on: no route to host" in caplog.text
    assert read_back(tmp_path / "run")["summary"][SAMPLES_SEEN] == 12


def test_training_goes_on_when_wandb_dies(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def die(*arguments: Any, **keywords: Any) -> None:
        raise BrokenPipeError("the service is gone")

    monkeypatch.setattr(wandb.Run, "log", die)
    train(tiny_config("logger=wandb", "logger.wandb.mode=offline"))
    assert json.loads((tmp_path / "run/status.json").read_text())["status"] == "finished"
    assert len(rows(tmp_path / "run")) == 6
    assert caplog.text.count("wandb failed and is switched off; training goes on: the service is gone") == 1


@pytest.mark.parametrize(
    ("asked", "mode"),
    [("online", "online"), ("offline", "offline"), ("dryrun", "offline"), ("disabled", "disabled")],
)
def test_auto_follows_the_environment(monkeypatch: pytest.MonkeyPatch, asked: str, mode: str) -> None:
    monkeypatch.setenv("WANDB_MODE", asked)
    assert login_mode() == mode


@pytest.mark.parametrize(("found", "mode"), [(True, "online"), (False, "offline")])
def test_auto_is_online_where_a_login_is_found(
    monkeypatch: pytest.MonkeyPatch, found: bool, mode: str
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", lambda **_: found)
    assert login_mode() == mode


def test_a_disabled_run_names_no_command(tmp_path: Path) -> None:
    logger = RunWandbLogger("project", "name", str(tmp_path), mode="disabled")
    logger.log_metrics({"a": 1.0})
    assert logger.finish(failed=False) is None
