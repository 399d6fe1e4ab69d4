"""Writing the last checkpoint; reading checkpoints back: as data, never as code."""

import pickle
from collections.abc import Mapping
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


# What a resumed run may change: nothing that its weights, curves or scores depend on.
_FREE = (
    *("name", "run_dir", "checkpoint", "overwrite", "test", "objective", "logger", "callbacks", "versions"),
    *("data.root", "loader.workers", "loader.cache_mb", "trainer.accelerator", "trainer.max_time"),
    *("trainer.enable_progress_bar", "trainer.log_every_n_steps"),
)


def _leaves(node: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(node, Mapping):
        return {path: node}
    found = (_leaves(child, f"{path}.{key}" if path else str(key)) for key, child in node.items())
    return {name: value for leaves in found for name, value in leaves.items()}


def check_resumable(path: str, config: Mapping[str, Any]) -> None:
    """Require that a run of `config` goes on exactly where the checkpoint's run stopped.

    Raises:
        UserError: names the first setting that differs, or the checkpoint is the end of its run.
    """
    checkpoint = read_checkpoint(path)
    saved, asked = (_leaves(each) for each in (checkpoint["clipfuse"]["config"], config))
    for key in sorted(saved.keys() | asked.keys()):
        if key.startswith(_FREE) or saved.get(key) == asked.get(key):
            continue
        raise UserError(
            f"checkpoint {path} cannot be resumed: its {key} is {saved.get(key)!r}, this run's is "
            f"{asked.get(key)!r}; a resumed run keeps its settings"
        )
    if checkpoint["global_step"] >= config["steps"]:
        raise UserError(f"checkpoint {path} is the end of its run; score it with: clipfuse evaluate")
