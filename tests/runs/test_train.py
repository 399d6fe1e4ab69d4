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
        (["objective=test/SIM"], "objective is test/SIM, which nothing logs. Did you mean 'test/SSIM'"),
        (["objective=val/SSIM"], "Did you mean 'val/metric/SSIM'"),
        (["objective=test/SSIM", "test=false"], "test=false computes no scores on the test images"),
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


@pytest.mark.parametrize("part", ["val", "train"])
def test_a_term_that_the_loss_has_not_is_found_before_the_first_update(
    tiny_config: Config, tmp_path: Path, part: str
) -> None:
    config = tiny_config("test=false", f"objective={part}/loss/pixel/edge")
    with pytest.raises(
        UserError, match=r"the objective is val/loss/pixel/edge, which is no term of the loss"
    ):
        train(config)
    assert not (tmp_path / "run/checkpoints").exists()


def test_an_objective_that_is_a_term(tiny_config: Config) -> None:
    assert train(tiny_config("test=false", "steps=1", "objective=val/loss/pixel/intensity")) is not None
