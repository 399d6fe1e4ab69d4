import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import wandb
from omegaconf import DictConfig
from PIL import Image

from clipfuse.errors import UserError
from clipfuse.runs.train import train
from clipfuse.tracking.wandb_run import RunWandbLogger, login_mode
from clipfuse.training.module import FusionModule
from clipfuse.types import SAMPLES_SEEN

Config = Callable[..., DictConfig]


def summary_of(run_dir: Path) -> dict[str, Any]:
    (run,) = (run_dir / "wandb").glob("offline-run-*")
    reader = [
        str(Path(sys.executable).with_name("wandb")),
        "leet",
        "inspect",
        "--summary",
        "--json",
        str(run),
    ]
    found: dict[str, Any] = json.loads(subprocess.check_output(reader, text=True))
    return found


def too_small(monkeypatch: pytest.MonkeyPatch) -> tuple[str, type[BaseException]]:
    return "loader.crop_size=200", UserError


def interrupted(monkeypatch: pytest.MonkeyPatch) -> tuple[str, type[BaseException]]:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FusionModule, "training_step", interrupt)
    return "test=false", KeyboardInterrupt


@pytest.mark.parametrize("end", [too_small, interrupted])
def test_a_failed_or_stopped_run_is_shown_as_failed(
    end: Callable[..., tuple[str, type[BaseException]]],
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    override, error = end(monkeypatch)
    with pytest.raises(error):
        train(tiny_config("logger=wandb", "logger.wandb.mode=offline", override))
    assert summary_of(tmp_path / "run")["exit_code"] == 1


@pytest.mark.reliability
def test_a_killed_run_is_kept_without_an_end(tmp_path: Path) -> None:
    """At its upload W&B marks such a run as failed."""
    child = (
        "import sys, time; from clipfuse.tracking.wandb_run import RunWandbLogger\n"
        "RunWandbLogger('project', 'killed', sys.argv[1], mode='offline').log_metrics({'a': 1.0})\n"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", child, str(tmp_path)]) as process:
        try:
            deadline = monotonic() + 300
            while not any(log.stat().st_size > 1000 for log in tmp_path.glob("wandb/*/*.wandb")):
                assert process.poll() is None
                assert monotonic() < deadline
                sleep(0.5)
        finally:
            process.kill()
    found = summary_of(tmp_path)
    assert (found["name"], found["exit_code"], found["summary"]["a"]) == ("killed", None, 1.0)


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
    assert summary_of(tmp_path / "run")["summary"][SAMPLES_SEEN] == 12


@pytest.mark.parametrize("broken", ["log", "log_artifact"])
def test_training_goes_on_when_wandb_dies(
    broken: str,
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def die(*arguments: Any, **keywords: Any) -> None:
        raise BrokenPipeError("the service is gone")

    monkeypatch.setattr(wandb.Run, broken, die)
    train(tiny_config("logger=wandb", "logger.wandb.mode=offline"))
    assert json.loads((tmp_path / "run/status.json").read_text())["status"] == "finished"
    with (tmp_path / "run/metrics.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 6
    assert caplog.text.count("wandb failed and is switched off; training goes on: the service is gone") == 1


def test_a_run_that_goes_on_stays_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "a run"
    for value in (1.0, 2.0):
        logger = RunWandbLogger("project", "name", str(folder), mode="offline")
        logger.log_metrics({SAMPLES_SEEN: 8 * value, "a": value})
        command = logger.finish(failed=value == 1.0)
        assert command == f"wandb sync '{folder / 'wandb'}'"
    parts = list((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert len(parts) == 2
    assert {part.name for part in parts} == {f"run-{logger.experiment.id}.wandb"}


def test_an_upload_that_takes_too_long_is_left_for_later(tmp_path: Path) -> None:
    def finish(exit_code: int) -> None:
        raise TimeoutError("Timed out finishing run.")

    logger = RunWandbLogger("project", "name", str(tmp_path))
    settings = SimpleNamespace(mode="online", sync_dir="mine/wandb/run-1-x")
    logger._experiment = SimpleNamespace(disabled=False, settings=settings, finish=finish)  # type: ignore[assignment]
    assert logger.finish(failed=False) == "wandb sync --include-online mine/wandb"


def described(run_dir: Path, record: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    options = {"loss": "custom", "backbone": "conv_tiny", "clip": "custom", "data": "msrs"}
    logger = RunWandbLogger("project", "mine", str(run_dir), mode="disabled", options=options, **arguments)
    logger.log_hyperparams({"loss": {"_target_": "my_loss.Mine"}, "seed": 3, **record})
    return logger._wandb_init


def test_a_custom_loss_and_its_clip_are_named(tmp_path: Path) -> None:
    found = described(
        tmp_path / "run", {"clip_identity": {"model": "ViT-B-16"}}, tags=["paper"], group="mine"
    )
    assert found["tags"] == ["loss=my_loss", "backbone=conv_tiny", "clip=ViT-B-16", "data=msrs", "paper"]
    assert (found["job_type"], found["group"], found["name"]) == ("my_loss", "mine", "mine seed=3")


def test_a_clip_that_no_loss_asks_is_no_tag_and_a_single_run_has_no_group(tmp_path: Path) -> None:
    found = described(tmp_path / "run", {"clip_identity": None})
    assert found["tags"] == ["loss=my_loss", "backbone=conv_tiny", "data=msrs"]
    assert "group" not in found


def test_what_a_sweep_varies_is_in_the_name(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / "sweep.yaml").write_text(
        "words: [steps=6, 'seed=0,3', 'loss.weight=1,2', test=false]\n"
        "jobs:\n  0: [steps=6, seed=0, loss.weight=1, test=False]\n"
        "  1: [steps=6, seed=3, loss.weight=2, test=False]\n"
    )
    found = described(sweep / "1", {})
    assert (found["group"], found["name"]) == ("sweep", "mine loss.weight=2 seed=3")


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


def test_an_evaluation_says_so(tmp_path: Path) -> None:
    options = {"loss": None, "backbone": None, "clip": None, "data": "msrs"}
    logger = RunWandbLogger("project", "evaluate-msrs", str(tmp_path), mode="disabled", options=options)
    logger.log_hyperparams({})
    found = logger._wandb_init
    assert (found["job_type"], found["tags"], found["name"]) == ("evaluate", ["data=msrs"], "evaluate-msrs")


def test_the_record_holds_images_cost_trivial_scores_and_lower_terms(
    tiny_config: Config, tmp_path: Path
) -> None:
    """Read back from the offline record."""
    two_levels = ["loss=promptfusion", "loss.warmup=0", "loss.fidelity.decomposition_weight=0", "steps=2"]
    train(
        tiny_config(
            *two_levels,
            *("logger=wandb", "logger.wandb.mode=offline", "logger.wandb.images=1", "metrics.test=[SSIM,EN]"),
        )
    )
    summary = summary_of(tmp_path / "run")["summary"]
    fit = json.loads((tmp_path / "run/status.json").read_text())["fit"]
    assert {name: summary[f"fit/{name}"] for name in fit} == fit
    scores = {name for name in summary if name.startswith("trivial/")}
    fusions = ("infrared", "visible", "average", "maximum")
    assert scores == {f"trivial/{fusion}/{metric}" for fusion in fusions for metric in ("SSIM", "EN")}
    (kept,) = (tmp_path / "run/wandb").glob("offline-run-*/files/media/images/test/fused_*.png")
    with Image.open(kept) as image, Image.open(tmp_path / "run/test/color/test-0.png") as ours:
        assert image.size == ours.size == (64, 48)
        difference = np.abs(np.asarray(image.convert("RGB"), int) - np.asarray(ours.convert("RGB"), int))
    assert difference.max() <= 1
    with (tmp_path / "run/metrics.csv").open(newline="") as file:
        columns = csv.DictReader(file).fieldnames or []
    lower = [name for name in columns if name.startswith("train/lower/promptfusion/")]
    assert lower
    assert set(lower) <= set(summary)


def test_trivial_scores_are_those_of_the_command(tiny_config: Config, tmp_path: Path, clipfuse: Any) -> None:
    train(tiny_config("logger=wandb", "logger.wandb.mode=offline", "steps=1", "metrics.test=[SSIM,EN]"))
    summary = summary_of(tmp_path / "run")["summary"]
    pairs = tiny_config().data.root
    bands = ["--infrared", f"{pairs}/test/ir", "--visible", f"{pairs}/test/vi", "--metrics", "SSIM,EN"]
    out = tmp_path / "scores.json"
    assert clipfuse("score", "--fused", f"{tmp_path}/run/test/color", *bands, "--json", str(out))[0] == 0
    for fusion, scores in json.loads(out.read_text())["methods"].items():
        if fusion.startswith("trivial:"):
            for metric, mean in scores.items():
                assert summary[f"{fusion.replace(':', '/')}/{metric}"] == pytest.approx(mean, abs=1e-6)
