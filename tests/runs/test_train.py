"""What a training refuses before it begins; what it leaves is in tests/training/test_training.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from clipfuse.errors import UserError
from clipfuse.runs.train import train

Config = Callable[..., DictConfig]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss._target_=builtins.dict", "~loss.gradient_weight"], "expected a subclass of FusionLoss"),
        (["solver=alternate"], "the loss 'pixel' has no lower level; take solver=joint, or a loss"),
        (["+loader.seed=1"], "loader.seed is set by each run itself; use data, accumulate or seed"),
        (["auto_resume=true", "~callbacks.last"], "auto_resume=true needs the checkpoint that callbacks"),
        (["objective=test/SIM"], r"objective watches test/SIM, but SIM is not in metrics\.test"),
        (["+trainer.max_epochs=3"], "trainer.max_epochs is set by each run itself; use steps$"),
        (["trainer.precision=16-mixed"], "trainer.precision is 16-mixed; expected one of 32-true"),
        (["trainer.devices=2"], "trainer.devices is 2; for more than one take trainer=ddp"),
        (["scheduler.warmup=2"], "optimizer or scheduler: scheduler.warmup is 2"),
    ],
)
def test_what_cannot_work_leaves_no_run_folder(
    tiny_config: Config, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(tiny_config(*overrides))
    assert not (tmp_path / "run").exists()


def test_an_objective_that_nothing_logs_is_named(
    tiny_config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    assert train(tiny_config("test=false", "steps=1", "objective=val/loss/other")) is None
    assert "the objective 'val/loss/other' was not logged; logged were loss, " in caplog.text
