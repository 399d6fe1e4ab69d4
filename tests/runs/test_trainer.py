"""Each setting and callback of Lightning is counted right or refused by name; early ends are kept."""

import inspect
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf

from clipfuse.comparison.collect import find_runs
from clipfuse.comparison.variants import select
from clipfuse.losses.pixel import PixelLoss
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.runs.train import train
from clipfuse.runs.trainer import (
    _FIXED,
    ALLOWED,
    ALLOWED_CALLBACKS,
    REFUSED,
    REFUSED_CALLBACKS,
    check_callbacks,
    check_trainer,
    make_trainer,
)
from clipfuse.training.scoring import ScoringModule
from clipfuse.types import LossInputs, LossOutput

Config = Callable[..., DictConfig]

KEYS = [key for key in inspect.signature(L.Trainer.__init__).parameters if key != "self"]
# key -> a value that is not the default, and what the trainer then is.
EFFECTS: dict[str, tuple[Any, Callable[[L.Trainer], bool]]] = {
    "accelerator": ("cpu", lambda trainer: trainer.strategy.root_device.type == "cpu"),
    "devices": ([0], lambda trainer: trainer.num_devices == 1),
    "num_nodes": (1, lambda trainer: trainer.num_nodes == 1),
    "strategy": ("auto", lambda trainer: trainer.world_size == 1),
    "precision": ("64-true", lambda trainer: trainer.precision == "64-true"),
    "max_time": ("00:00:10:00", lambda trainer: any(type(c).__name__ == "Timer" for c in trainer.callbacks)),  # type: ignore[attr-defined]
    "log_every_n_steps": (3, lambda trainer: trainer.log_every_n_steps == 3),  # type: ignore[attr-defined]
    "deterministic": (True, lambda trainer: torch.are_deterministic_algorithms_enabled()),
    "benchmark": (True, lambda trainer: torch.backends.cudnn.benchmark),
    "detect_anomaly": (True, lambda trainer: trainer._detect_anomaly),
    "enable_progress_bar": (False, lambda trainer: trainer.progress_bar_callback is None),
    "enable_model_summary": (
        True,
        lambda trainer: any("ModelSummary" in type(c).__name__ for c in trainer.callbacks),  # type: ignore[attr-defined]
    ),
}


def with_trainer(config: DictConfig, **settings: Any) -> DictConfig:
    OmegaConf.set_struct(config, False)
    for key, value in settings.items():
        config.trainer[key] = value
    return config


def test_each_setting_of_lightning_is_decided() -> None:
    assert {*ALLOWED, *REFUSED} == set(KEYS)
    assert set(EFFECTS) == set(ALLOWED)
    assert not set(ALLOWED) & set(REFUSED)


@pytest.fixture
def state_kept() -> Any:
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.benchmark = before[1]


@pytest.mark.parametrize("key", ALLOWED)
def test_an_allowed_setting_has_its_effect(tiny_config: Config, state_kept: None, key: str) -> None:
    value, has_effect = EFFECTS[key]
    config = with_trainer(tiny_config(), **{key: value})
    if key == "devices":
        config.trainer.accelerator, config.trainer.devices = "cpu", 1
        config = with_trainer(config, devices=1)
    check_trainer(config)
    assert has_effect(make_trainer(config, []))


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_any_other_setting_is_refused_with_ours(tiny_config: Config, key: str, user_error: Any) -> None:
    config = with_trainer(tiny_config(), **{key: 2})
    line = user_error(train, config)
    assert line == f"trainer.{key} {REFUSED[key]}"
    assert "; " in line
    assert not Path(config.run_dir).exists()


def test_what_the_default_configuration_fixes_is_accepted(tiny_config: Config) -> None:
    config = tiny_config()
    assert {key: config.trainer[key] for key in _FIXED} == _FIXED
    check_trainer(config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "16-mixed"}, "trainer.precision is 16-mixed; expected one of 32-true"),
        ({"devices": 2}, "trainer.devices is 2; for more than one take trainer=ddp"),
        ({"devices": 2, "strategy": "auto"}, "trainer.devices is 2; for more than one take trainer=ddp"),
        ({"devices": [0, 1]}, "for more than one take trainer=ddp"),
        *(
            ({"strategy": name}, f"trainer.strategy is {name}; expected auto for one device, or trainer=ddp")
            for name in ("ddp", "ddp_fork", "ddp_spawn", "ddp_notebook", "fsdp", "deepspeed")
        ),
        (
            {"strategy": {"_target_": "lightning.pytorch.strategies.DDPStrategy", "start_method": "fork"}},
            "trainer.strategy is DDPStrategy; expected a DDPStrategy that starts its processes by popen",
        ),
        *(
            ({"log_every_n_steps": value}, f"trainer.log_every_n_steps is {value}; expected 1 or more")
            for value in (0, -1, 2.5, True, None)
        ),
        *(
            ({"max_time": value}, "expected null, or a time above 0 as DD:HH:MM:SS")
            for value in (0, -5, "00:00:00:00", "1h", {"hours": 0}, {"hour": 1}, True, 2.5, [])
        ),
        ({"_target_": "lightning.pytorch.trainer.trainer.Trainer"}, "expected lightning.Trainer: what is to"),
    ],
)
def test_a_value_without_sense_is_one_line(
    tiny_config: Config, settings: dict[str, Any], message: str, user_error: Any
) -> None:
    config = with_trainer(tiny_config(), **settings)
    assert message in user_error(train, config)
    assert not Path(config.run_dir).exists()


def test_each_callback_of_lightning_is_decided() -> None:
    assert {*ALLOWED_CALLBACKS, *REFUSED_CALLBACKS} == set(lightning_callbacks.__all__)


@pytest.mark.parametrize("name", sorted(REFUSED_CALLBACKS))
def test_a_callback_that_changes_the_loop_is_refused(name: str, user_error: Any) -> None:
    kind = getattr(lightning_callbacks, name)
    for each in (kind, type("Mine", (kind,), {"__module__": "theirs"})):
        callback = each.__new__(each)
        line = user_error(check_callbacks, ["extra"], [callback])
        assert line == f"callbacks.extra: Lightning's {name} {REFUSED_CALLBACKS[name]}"
    check_callbacks(["extra"], [Callback()])


def test_an_object_that_is_no_callback_is_refused(user_error: Any) -> None:
    assert user_error(check_callbacks, ["a"], [{}]) == "callbacks.a is dict; expected a lightning.Callback"


EARLY = "+callbacks.early={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/metric/SSIM, "
STOPS = f"{EARLY}mode: max, patience: 1, min_delta: 10}}"


class _Slow(Callback):
    """Takes longer than the time limit."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        for callback in trainer.callbacks:
            if type(callback).__name__ == "Timer":
                callback._duration = 0.0


class _Ends(Callback):
    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.should_stop = batch_idx == 1


@pytest.mark.parametrize(
    ("overrides", "update", "reason"),
    [
        ([STOPS], 4, "Monitored metric val/metric/SSIM did not improve in the last 1 records. Best score: "),
        (
            ["trainer.max_time='00:00:10:00'", f"+callbacks.slow={{_target_: {__name__}._Slow}}"],
            1,
            "the time of trainer.max_time is over",
        ),
        ([f"+callbacks.ends={{_target_: {__name__}._Ends}}"], 2, "a callback ended it"),
    ],
)
def test_a_run_that_stops_early_is_finished_and_a_repeat_leaves_it_alone(
    tiny_config: Config,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    update: int,
    reason: str,
) -> None:
    options = (*overrides, "auto_resume=true", "steps=8", "validate_every=2", "metrics.validation=[SSIM]")
    folder = tmp_path / "run"
    objective = train(tiny_config(*options, "metrics.test=[SSIM]"))
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "finished"
    assert status["reason"].startswith(f"stopped early after update {update} of 8: {reason}")
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert train(tiny_config(*options, "metrics.test=[SSIM]")) == objective
    assert "checkpoint=last goes on with it" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == files
    _, notes = select(find_runs([folder]), partial=False)
    assert notes == [f"Taken: {folder} ({status['reason']})."]


def test_a_run_without_checkpoints_leaves_only_files_that_a_second_one_may_replace(
    tiny_config: Config, tmp_path: Path
) -> None:
    options = ("~callbacks.best", "~callbacks.last", "overwrite=true", "test=false")
    for _ in range(2):
        train(tiny_config(*options))
        assert not (tmp_path / "run/checkpoints").exists()


def test_a_run_that_stopped_early_and_was_killed_in_its_test_is_tested_and_no_more(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (STOPS, "auto_resume=true", "steps=8", "validate_every=2", "ema=0.9")
    with monkeypatch.context() as patch:
        patch.setattr(
            ScoringModule, "test_step", lambda *_: (_ for _ in ()).throw(InterruptedError("killed"))
        )
        with pytest.raises(InterruptedError):
            train(tiny_config(*options))
    last = tmp_path / "run/checkpoints/last.ckpt"
    before = read_checkpoint(last)
    assert train(tiny_config(*options)) is not None
    after = read_checkpoint(last)
    assert before["global_step"] == after["global_step"] == 4
    status = json.loads((tmp_path / "run/status.json").read_text())
    assert (status["status"], status["fit"]["updates"]) == ("finished", 0)
    assert status["reason"].startswith("stopped early after update 4 of 8: Monitored metric val/metric/SSIM")


def test_a_run_that_stopped_early_goes_on_where_that_is_asked_for(
    tiny_config: Config, tmp_path: Path
) -> None:
    ends = f"+callbacks.ends={{_target_: {__name__}._Ends}}"
    options = ("steps=6", "validate_every=2", "test=false")
    train(tiny_config(*options, ends))
    assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 2
    train(
        tiny_config(*options, "checkpoint=last", "callbacks.last.path=${run_dir}/checkpoints/last.ckpt", ends)
    )
    assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 6
    assert json.loads((tmp_path / "run/status.json").read_text())["reason"] is None


class _OftenUndefined(PixelLoss):
    """Its own term is NaN at the first validation and missing at the third."""

    count = 0

    def forward(self, inputs: LossInputs) -> LossOutput:
        output = super().forward(inputs)
        terms: dict[str, Any] = dict(output.terms)
        if not self.training:
            _OftenUndefined.count += 1
            validation = (
                _OftenUndefined.count - 2
            ) // 2  # one call before the training, two validation pairs
            if validation != 2:
                terms["own"] = torch.tensor(float("nan") if validation == 0 else 1.0 - validation)
        return LossOutput(output.total, terms)


def test_a_validation_where_the_watched_score_is_not_defined_is_passed_over(
    tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _OftenUndefined.count = 0
    term = "val/loss/test_trainer/own"
    config = tiny_config(
        "test=false",
        "steps=4",
        "validate_every=1",
        f"callbacks.best.monitor={term}",
        "callbacks.best.mode=min",
        EARLY.replace("val/metric/SSIM", term) + "mode: min, patience: 2}",
    )
    config.loss = {"_target_": f"{__name__}._OftenUndefined"}
    train(config)
    for update in (1, 3):
        line = f"{term} is not defined at update {update}: callbacks.{{}} passes over this validation"
        assert line.format("best") in caplog.text
        assert line.format("early") in caplog.text
    checkpoint = read_checkpoint(tmp_path / "run/checkpoints/best.ckpt")
    assert checkpoint["global_step"] == 4
    assert checkpoint["clipfuse"]["scores"][term] == -2
    assert json.loads((tmp_path / "run/status.json").read_text())["reason"] is None


@pytest.mark.parametrize(
    ("monitor", "words"),
    [
        ("val/metric/SIM", ["callbacks.early watches val/metric/SIM, which no", "'val/metric/SSIM'?"]),
        ("val_loss", ["callbacks.early watches val_loss", "Known are val/metric/", "val/loss/total"]),
        ("train/loss/total", ["callbacks.early watches train/loss/total", "Did you mean 'val/loss/total'?"]),
        (
            "val/loss/pixel/intensty",
            ["which is no term of the loss. Did you mean 'val/loss/pixel/intensity'?"],
        ),
    ],
)
def test_a_misspelt_monitor_is_refused_before_the_training(
    tiny_config: Config, monitor: str, words: list[str], user_error: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "clipfuse.training.module.FusionModule.training_step", lambda *_: pytest.fail("trains")
    )
    line = user_error(train, tiny_config(EARLY.replace("val/metric/SSIM", monitor) + "mode: max}"))
    assert all(word in line for word in words), line


class _Signals(Callback):
    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            os.kill(os.getpid(), signal.SIGUSR1)


def test_slurm_saves_in_the_run_folder_and_no_file_of_the_current_folder_is_taken(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_config("test=false", f"run_dir={tmp_path / 'other'}"))
    here = tmp_path / "here"
    here.mkdir()
    stray = here / "hpc_ckpt_1.ckpt"
    stray.write_bytes((tmp_path / "other/checkpoints/last.ckpt").read_bytes())
    monkeypatch.chdir(here)
    for key, value in {
        "NTASKS": "1",
        "JOB_NAME": "train",
        "JOB_ID": "1",
        "PROCID": "0",
        "LOCALID": "0",
    }.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    monkeypatch.setenv("SLURM_NODELIST", "localhost")
    monkeypatch.setenv("SLURM_NODEID", "0")
    monkeypatch.setattr("lightning.pytorch.trainer.connectors.signal_connector.call", lambda *_, **__: 0)
    signals = f"+callbacks.signals={{_target_: {__name__}._Signals}}"
    with pytest.raises(SystemExit) as stop:
        train(tiny_config(signals, "test=false"))
    assert stop.value.code == 143
    assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 2
    assert os.listdir(here) == [stray.name]
