"""What a logger offers that shows more than curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
from PIL.Image import Image


@runtime_checkable
class MediaLogger(Protocol):
    """A logger that shows images, tables and the best scores of a run.

    Callbacks write to every logger of a run that has these methods. `samples_seen`
    is the place on the x-axis.
    """

    def log_images(self, key: str, images: Mapping[str, Path | Image], samples_seen: int) -> None:
        """Show images, files or Pillow images by caption, under one key of the log."""

    def log_rows(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], samples_seen: int
    ) -> None:
        """Show a table; a cell is a number, a text, a Pillow image or None."""

    def log_best(
        self, scores: Mapping[str, float], checkpoints: Mapping[str, Path], samples_seen: int
    ) -> None:
        """Show the validation scores of the best checkpoint, and keep checkpoints, files by alias."""

    def finish(self, failed: bool) -> str | None:
        """Close the log of a run; return the command that uploads it later, if it needs one."""


@runtime_checkable
class SummaryLogger(Protocol):
    """A logger that keeps single values of a whole run, such as its cost."""

    def log_summary(self, values: Mapping[str, Any]) -> None:
        """Keep values by name."""


def media_loggers(trainer: L.Trainer) -> list[MediaLogger]:
    """Return the loggers of a run that show more than curves."""
    return [logger for logger in trainer.loggers if isinstance(logger, MediaLogger)]


def samples_seen(module: L.LightningModule) -> int:
    """Return the samples that a network was trained on; 0 where it is only tested."""
    return int(getattr(module, "samples_seen", 0))
