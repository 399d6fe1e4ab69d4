import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from PIL import Image
from torch import nn

from clipfuse.losses.base import FusionLoss, LossArtifacts
from clipfuse.runs.train import train
from clipfuse.tracking.pictures import draw_panel
from clipfuse.types import LossInputs, LossOutput

Config = Callable[..., DictConfig]


class _Talks(FusionLoss):
    """Logs its mode, the step and the first pair it gets."""

    given: list[LossInputs] = []  # noqa: RUF012

    def forward(self, inputs: LossInputs) -> LossOutput:
        return LossOutput(inputs.fused.mean(), {})

    def artifacts(self, inputs: LossInputs) -> LossArtifacts:
        _Talks.given.append(inputs)
        texts = {"step": str(inputs.step), "ids": ", ".join(inputs.sample_ids), "mode": str(self.training)}
        return LossArtifacts(texts, [("fused", inputs.fused[0]), ("infrared", inputs.infrared[0])])


class _PowerCut(Callback):
    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 5:
            raise RuntimeError("power cut")


def talking(config: DictConfig) -> DictConfig:
    config.loss = {"_target_": f"{__name__}._Talks"}
    return config


def test_artifacts_of_the_first_validation_pair_before_and_during_training(
    tiny_config: Config, tmp_path: Path
) -> None:
    """In a run that breaks off after a validation and goes on: each validation is there once."""
    _Talks.given.clear()
    cut = f"+callbacks.cut={{_target_: {__name__}._PowerCut}}"
    with pytest.raises(RuntimeError, match="power cut"):
        train(talking(tiny_config("test=false", "validate_every=2", cut)))
    train(talking(tiny_config("test=false", "validate_every=2", "auto_resume=true")))
    with (tmp_path / "run/notes/words.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["update", "name", "text"]
    assert [row[0] for row in rows[::3]] == ["0", "2", "4", "6"]
    assert {tuple(row[1:]) for row in rows if row[1] != "step"} == {("ids", "val-0"), ("mode", "False")}
    assert all(row[2] == row[0] for row in rows if row[1] == "step")
    names = sorted(path.name for path in (tmp_path / "run/notes").glob("*.png"))
    assert names == ["000000.png", "000002.png", "000004.png", "000006.png"]
    last = _Talks.given[-1]
    expected = draw_panel(["fused", "infrared"], [[last.fused[0], last.infrared[0]]], cell_height=160)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "run/notes/000006.png")), np.asarray(expected))


def test_a_loss_without_artifacts_leaves_no_folder(trained: Path) -> None:
    assert not (trained / "notes").exists()


class _Frozen(_Talks):
    """Keeps a part in eval mode, as a frozen network is."""

    modes: list[tuple[bool, bool]] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Dropout().eval()

    def forward(self, inputs: LossInputs) -> LossOutput:
        _Frozen.modes.append((self.training, self.part.training))
        return super().forward(inputs)


def test_a_part_of_a_loss_in_eval_mode_stays_so(tiny_config: Config) -> None:
    _Frozen.modes.clear()
    config = tiny_config("test=false")
    config.loss = {"_target_": f"{__name__}._Frozen"}
    train(config)
    assert {(True, False), (False, False)} == set(_Frozen.modes)
