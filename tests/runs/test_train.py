"""What a training refuses before it begins; what it leaves is in tests/training/test_training.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig
from PIL import Image

from clipfuse.errors import UserError
from clipfuse.files import read_yaml
from clipfuse.losses.base import FusionLoss
from clipfuse.runs.train import train
from clipfuse.types import LossInputs, LossOutput

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


class _Seeing(FusionLoss):
    needs = frozenset({"classes"})

    def forward(self, inputs: LossInputs) -> LossOutput:
        assert inputs.classes is not None
        assert inputs.classes.shape == inputs.fused[:, 0].shape
        assert inputs.classes.unique().tolist() == [1]
        total = (inputs.fused - inputs.classes[:, None]).abs().mean()
        return LossOutput(total, {"distance": total.detach()})


class _Holding(FusionLoss):
    def __init__(self) -> None:
        super().__init__()
        self.part = _Seeing()

    def forward(self, inputs: LossInputs) -> LossOutput:
        output: LossOutput = self.part(inputs)
        return output


def test_a_loss_gets_the_labels_it_needs_or_is_refused(
    tiny_config: Config, tmp_path: Path, pairs_folder: Path
) -> None:
    """Their identity is recorded with the training, apart from that of the images."""
    config = tiny_config("steps=1", "test=false")
    config.loss = {"_target_": f"{__name__}._Holding"}
    with pytest.raises(
        UserError, match="the loss seeing needs classes, which the data set 'folder' does not"
    ):
        train(config)
    assert not (tmp_path / "run").exists()
    (tmp_path / "labels").mkdir()
    for file in pairs_folder.glob("*/ir/*.png"):
        Image.new("L", (64, 48), 1).save(tmp_path / "labels" / file.name)
    given = f"data.labels={{folder: '{tmp_path / 'labels'}', kind: index, classes: [none, car]}}"
    seen: dict[str, dict[str, object]] = {}
    for name in ("pixel", "seeing", "text_weights"):
        loss = "text_weights" if name == "text_weights" else "pixel"  # which can do without what it reads
        config = tiny_config("steps=1", "test=false", given, f"run_dir={tmp_path / name}", f"loss={loss}")
        if name == "seeing":
            config.loss = {"_target_": f"{__name__}._Holding"}
        train(config)
        seen[name] = read_yaml(tmp_path / name / "config.yaml")
    assert "labels_sha256" not in seen["pixel"]
    assert len(str(seen["seeing"]["labels_sha256"])) == 64
    assert seen["text_weights"]["labels_sha256"] == seen["seeing"]["labels_sha256"]
    assert seen["seeing"]["split_sha256"] == seen["pixel"]["split_sha256"]
