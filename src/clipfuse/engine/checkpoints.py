"""Writing the last checkpoint; reading checkpoints back: as data, never as code."""

from io import BytesIO
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from clipfuse.engine.folder import write_atomically
from clipfuse.engine.interrupts import StopRequest
from clipfuse.engine.module import FusionModule
from clipfuse.engine.weights import SUFFIX, check_plain, read_archive, read_safetensors
from clipfuse.errors import UserError

REMEDY = "expected a checkpoint that 'clipfuse train' wrote, such as RUN/checkpoints/last.ckpt"


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, and reads the one a run goes on from only once.

    A checkpoint replaces the one before it when it is complete and on the disk.

    Args:
        resumed: content of that one, read before.
    """

    def __init__(self, resumed: dict[str, Any] | None = None) -> None:
        self.resumed = resumed

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write it; raises UserError where that fails."""
        content = BytesIO()  # torch.save hides what goes wrong with a file
        torch.save(checkpoint, content)
        with write_atomically(Path(path), "wb") as file:
            file.write(content.getbuffer())

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return the content of the file, on the CPU; raises UserError as `read_checkpoint`."""
        content, self.resumed = self.resumed, None  # Lightning changes what it gets
        return content or read_checkpoint(path)


class LastCheckpoint(Checkpoint):
    """Saves the state of the run at every validation, at its end and when it is told to stop.

    Always to the same file. Lightning's `ModelCheckpoint` ties a save to one of these, and counts steps
    differently under manual optimisation. After Ctrl-C or SIGTERM the run ends with the update at hand,
    or with the validation that is due after it: half of either can be neither saved nor resumed.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.stop = StopRequest()
        self._saved: int | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait for signals."""
        self._saved = None
        self.stop.listen()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and end the run if it was told to."""
        assert isinstance(pl_module, FusionModule)
        validates = (batch_idx + 1) % (trainer.val_check_batch or 1) == 0
        if pl_module.between_updates and not validates and self.stop.made(trainer):
            self._save(trainer)
            self._end(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save."""
        self._save(trainer)
        if self.stop.made(trainer):
            self._end(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the end, where no validation has just done so: one epoch is the whole run."""
        if self._saved != trainer.global_step:
            self._save(trainer)
        if self.stop.made(trainer):
            self._end(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.path)
        self._saved = trainer.global_step

    def _end(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero:
            print(
                f"stopped after update {trainer.global_step}, saved in {self.path}; the same command with "
                "the same run_dir and auto_resume=true goes on",
                flush=True,
            )
        self.stop.obey()


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of `clipfuse train`, or what `clipfuse export` made of it, on the CPU.

    Returns:
        Plain types and tensors: `state_dict`, and under `clipfuse` the `config`; from `train` also all
        that a run needs to go on.

    Raises:
        UserError: the file is missing, is no checkpoint, or is one of another program.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"no checkpoint at {path}: {'it is a folder' if path.is_dir() else 'no such file'}; {REMEDY}"
        )
    try:
        content = read_safetensors(path) if path.suffix == SUFFIX else read_archive(path)
        if not isinstance(content, dict) or "clipfuse" not in content or "state_dict" not in content:
            raise UserError(f"{path} is a checkpoint of another program; {REMEDY}")
        if not isinstance(content["clipfuse"]["config"]["backbone"], dict):
            raise ValueError("its backbone is no configuration")
        check_plain(content["clipfuse"]["config"])
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as a checkpoint ({error}); {REMEDY}") from error
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path} is not a whole checkpoint; {REMEDY}") from error
    return content


def load_weights(backbone: nn.Module, checkpoint: dict[str, Any], path: str | Path) -> None:
    """Copy the backbone's weights out of a checkpoint.

    Raises:
        UserError: the weights are those of another backbone, or not finite.
    """
    prefix = "backbone."
    wanted = backbone.state_dict()
    try:
        weights = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith(prefix)}
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
        kinds = {name: value.is_floating_point() for name, value in weights.items()}
        if kinds != {name: value.is_floating_point() for name, value in wanted.items()}:
            raise ValueError("other names, or whole numbers in place of fractions")
        backbone.load_state_dict(weights)
    except Exception as error:  # crafted tensors raise whatever torch stumbles upon
        raise UserError(
            f"{path} holds the weights of another backbone than {type(backbone).__name__}"
        ) from error
    if not all(bool(value.isfinite().all()) for value in wanted.values()):
        raise UserError(f"{path} holds weights that are not finite; take another checkpoint")
