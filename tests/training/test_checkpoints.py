from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clipfuse.errors import UserError
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.training.checkpoints import CheckpointFiles, LastCheckpoint


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    files = CheckpointFiles(tmp_path)
    files.save_checkpoint({"state_dict": {"weight": torch.ones(2)}, "global_step": 1}, path)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(UserError, match=r"last\.ckpt: cannot be written \(No space left on device\)"):
            files.save_checkpoint({"state_dict": {}, "global_step": 2}, path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["last.ckpt"]


def test_the_checkpoint_that_was_read_before_is_handed_out_once(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    CheckpointFiles(tmp_path).save_checkpoint(
        {"state_dict": {}, "global_step": 3, "clipfuse": {"config": {"backbone": {}}}}, path
    )
    resumed = {"global_step": 7}
    files = CheckpointFiles(tmp_path, resumed)
    assert files.load_checkpoint(path) is resumed
    assert files.load_checkpoint(path) == read_checkpoint(path)


class Trainer:
    """Counts what is saved."""

    is_global_zero = True

    def __init__(self) -> None:
        self.global_step, self.saved, self.stop = 0, list[int](), False
        self.loggers = [SimpleNamespace(save=lambda: self.saved.append(-1))]
        self.strategy = SimpleNamespace(reduce_boolean_decision=lambda mine, all: mine)

    def save_checkpoint(self, path: str) -> None:
        self.saved.append(self.global_step)


def test_each_state_is_saved_once_and_the_curves_before_it(tmp_path: Path) -> None:
    trainer: Any = Trainer()
    callback, module = LastCheckpoint(str(tmp_path / "last.ckpt")), Any
    for trainer.global_step in (3, 6):
        callback.on_validation_end(trainer, module)  # type: ignore[arg-type]
    callback.on_train_epoch_end(trainer, module)  # type: ignore[arg-type]
    assert trainer.saved == [-1, 3, -1, 6]
    trainer.global_step = 7  # no validation after the last updates
    callback.on_train_epoch_end(trainer, module)  # type: ignore[arg-type]
    assert trainer.saved == [-1, 3, -1, 6, -1, 7]


def test_a_requested_stop_names_the_file_and_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer: Any = Trainer()
    trainer.global_step = 4
    callback = LastCheckpoint(str(tmp_path / "last.ckpt"))
    callback.stop.number = 2
    with pytest.raises(KeyboardInterrupt):
        callback.on_validation_end(trainer, Any)  # type: ignore[arg-type]
    assert trainer.saved == [-1, 4]
    printed = capsys.readouterr().out
    assert printed.startswith(f"stopped after update 4, saved in {tmp_path / 'last.ckpt'}; the same command")
    assert "auto_resume=true" in printed
