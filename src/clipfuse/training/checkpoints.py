"""Writing the checkpoints of a training."""

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from clipfuse.files import write_atomically
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.networks.weights import walk
from clipfuse.training.interrupts import StopRequest
from clipfuse.training.module import FusionModule

_HERE = "${run_dir}"  # in a checkpoint stands for the folder of its run


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, and reads the one that a run goes on from only once.

    A checkpoint replaces the one before it when it is complete and on the disk. Paths into the run folder, as
    that of the best checkpoint so far, are kept relative to it, so that a folder can be moved or copied.

    Args:
        folder: the run folder.
        resumed: content of the checkpoint that the run goes on from; None: the run begins anew.
    """

    def __init__(self, folder: Path, resumed: dict[str, Any] | None = None) -> None:
        self.folder = os.path.realpath(folder)
        self.resumed = resumed

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the checkpoint; raises UserError where that fails."""
        content = BytesIO()  # torch.save hides the reason why a file cannot be written
        torch.save(self._with_states(checkpoint, lambda states: _moved(states, self.folder, _HERE)), content)
        with write_atomically(Path(path), "wb") as file:
            file.write(content.getbuffer())

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return the content of the file, on the CPU; raises UserError as `read_checkpoint`."""
        content, self.resumed = self.resumed, None  # Lightning changes what it gets
        content = content or read_checkpoint(path)
        return self._with_states(content, lambda states: self._placed(states, os.path.realpath(path)))

    def _with_states(self, content: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
        return {**content, "callbacks": change(content["callbacks"])} if "callbacks" in content else content

    def _placed(self, states: dict[str, Any], path: str) -> dict[str, Any]:
        """Return the states of callbacks with the paths of this run folder.

        A best checkpoint so far that is not in this folder is forgotten: that of another run from which this
        one begins, or one that was removed.
        """
        origin = str(Path(path).parents[1])
        placed = {}
        for key, state in states.items():
            if not isinstance(state, dict) or not isinstance(state.get("dirpath"), str):
                placed[key] = _moved(state, _HERE, self.folder)
                continue
            old = state["dirpath"]
            if not old.startswith(_HERE) and Path(old).name == Path(path).parent.name:
                state = _moved(
                    state, str(Path(old).parent), _HERE
                )  # an earlier version wrote it, maybe elsewhere
            inside = str(state["dirpath"]).startswith(_HERE)
            # Lightning deletes the files that stand here: none outside of the folder.
            astray = [text for text in walk(state) if isinstance(text, str) and os.path.isabs(text)]
            state = _moved(state, _HERE, self.folder)
            known = origin == self.folder and os.path.isfile(state.get("best_model_path", ""))
            if not inside or (known and not astray):
                placed[key] = state
        return placed


def _moved(node: Any, old: str, new: str) -> Any:
    """Return plain content in which paths below the folder `old` lie below `new`."""
    if isinstance(node, dict):
        return {_moved(key, old, new): _moved(value, old, new) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(_moved(each, old, new) for each in node)
    if isinstance(node, str) and (node == old or node.startswith(f"{old}/")):
        return new + node[len(old) :]
    return node


class LastCheckpoint(Checkpoint):
    """Saves the state of the run, to one file, at every validation, at the end and when it is to stop.

    Lightning's `ModelCheckpoint` saves at only one of these, and counts steps differently under manual
    optimisation. After Ctrl-C or SIGTERM the run ends with the update at hand, or with the validation that is
    due after it: half of either can be neither saved nor resumed.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.stop = StopRequest()
        self._saved: int | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Handle signals from here on."""
        self._saved = None
        self.stop.install()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and end the run if a stop was requested."""
        assert isinstance(pl_module, FusionModule)
        validates = (batch_idx + 1) % (trainer.val_check_batch or 1) == 0
        if pl_module.between_updates and not validates and self.stop.requested(trainer):
            self._save(trainer)
            self._end_if_requested(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save; end the run if a stop was requested."""
        self._save(trainer)
        self._end_if_requested(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the end of the run, which is one epoch, unless a validation has just done so."""
        if self._saved != trainer.global_step:
            self._save(trainer)
        self._end_if_requested(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.path)
        self._saved = trainer.global_step

    def _end_if_requested(self, trainer: L.Trainer) -> None:
        if not self.stop.requested(trainer):
            return
        if trainer.is_global_zero:
            print(
                f"stopped after update {trainer.global_step}, saved in {self.path}; the same command with "
                "the same run_dir and auto_resume=true goes on",
                flush=True,
            )
        self.stop.raise_stop()
