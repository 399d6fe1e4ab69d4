"""Writing the last checkpoint; reading checkpoints back: as data, never as code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from clipfuse.engine.weights import SUFFIX, check_plain, read_archive, read_safetensors, walk
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
            f"no checkpoint at {path}: {'it is a folder' if path.is_dir() else 'no such file'}; {_REMEDY}"
        )
    try:
        content = read_safetensors(path) if path.suffix == SUFFIX else read_archive(path)
        if not isinstance(content, dict) or "clipfuse" not in content or "state_dict" not in content:
            raise UserError(f"{path} is a checkpoint of another program; {_REMEDY}")
        if not isinstance(content["clipfuse"]["config"]["backbone"], dict):
            raise ValueError("its backbone is no configuration")
        check_plain(content["clipfuse"]["config"])
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as a checkpoint ({error}); {_REMEDY}") from error
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path} is not a whole checkpoint; {_REMEDY}") from error
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
        UserError: names the first setting that differs; or the checkpoint is the end of its run, holds
            weights alone, or names files outside of the run folder.
    """
    checkpoint = read_checkpoint(path)
    steps, callbacks = checkpoint.get("global_step"), checkpoint.get("callbacks")
    whole = checkpoint.keys() >= {"loops", "optimizer_states", "lr_schedulers"}
    if not whole or not isinstance(steps, int) or not isinstance(callbacks, dict):
        raise UserError(f"checkpoint {path} cannot be resumed: it holds weights alone; {_REMEDY}")
    try:
        # Lightning deletes the best checkpoint so far where the file says that it lies.
        outside = [text for text in walk(callbacks) if isinstance(text, str) and ".." in Path(text).parts]
    except ValueError as error:
        raise UserError(f"checkpoint {path} cannot be resumed: {error}") from error
    if outside:
        raise UserError(f"checkpoint {path} names a file outside of its run, {outside[0]!r}; do not use it")
    saved, asked = (_leaves(each) for each in (checkpoint["clipfuse"]["config"], config))
    for key in sorted(saved.keys() | asked.keys()):
        if key.startswith(_FREE) or saved.get(key) == asked.get(key):
            continue
        raise UserError(
            f"checkpoint {path} cannot be resumed: its {key} is {saved.get(key)!r}, this run's is "
            f"{asked.get(key)!r}; a resumed run keeps its settings"
        )
    if steps >= config["steps"]:
        raise UserError(f"checkpoint {path} is the end of its run; score it with: clipfuse evaluate")
