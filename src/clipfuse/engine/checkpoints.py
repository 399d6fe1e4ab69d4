"""Writing the last checkpoint; reading checkpoints back: as data, never as code."""

import pickle
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from clipfuse.errors import UserError

_REMEDY = "expected a checkpoint that 'clipfuse train' wrote, such as RUN/checkpoints/last.ckpt"


class LastCheckpoint(Checkpoint):
    """Saves the state of the run at every validation and at its end, always to the same file.

    Lightning's `ModelCheckpoint` ties a save to one of the two, and counts steps differently under
    manual optimisation.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save."""
        trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save: one epoch is the whole run."""
        trainer.save_checkpoint(self.path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of `clipfuse train` on the CPU, as plain types and tensors.

    Raises:
        UserError: the file is missing, is no checkpoint, or is one of another program.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"no checkpoint at {path}: {'it is a folder' if path.is_dir() else 'no such file'}; {_REMEDY}"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise UserError(f"{path} cannot be read as a checkpoint; {_REMEDY}") from error
    if not isinstance(content, dict) or "clipfuse" not in content or "state_dict" not in content:
        raise UserError(f"{path} is a checkpoint of another program; {_REMEDY}")
    return content


def load_weights(backbone: nn.Module, checkpoint: dict[str, Any], path: str | Path) -> None:
    """Copy the backbone's weights out of a checkpoint.

    Raises:
        UserError: the weights are those of another backbone.
    """
    prefix = "backbone."
    weights = checkpoint["state_dict"]
    weights = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    try:
        backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"{path} holds the weights of another backbone than {type(backbone).__name__}"
        ) from error
