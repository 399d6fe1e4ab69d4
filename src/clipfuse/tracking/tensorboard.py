"""A run in TensorBoard: event files in the run folder, `tensorboard --logdir RUN` shows them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from clipfuse.errors import UserError
from clipfuse.types import SAMPLES_SEEN


class RunTensorBoardLogger(TensorBoardLogger):
    """Lightning's TensorBoard logger with `trainer/samples_seen` as x-axis, images and tables.

    A resumed run goes on in the same folder; TensorBoard drops what the earlier part wrote beyond its
    checkpoint. Tables are shown as texts, without their images; checkpoints are left where they are.

    Args:
        save_dir: run folder; the event files lie in `tensorboard/`.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self, save_dir: str) -> None:
        try:
            super().__init__(save_dir, name="tensorboard", version="")
            import torch.utils.tensorboard  # noqa: F401  # Lightning would also take tensorboardX
        except ImportError as error:
            raise UserError(
                f"logger=tensorboard needs a package that is missing ({' '.join(str(error).split())}): "
                "pip install 'clipfuse[tensorboard]'"
            ) from error
        self.samples_seen = 0
        self._config: str | None = None

    def _at(self, samples_seen: int, purge: int | None = None) -> Any:
        """Return the writer, and remember a place on the x-axis for values that come without one.

        Args:
            samples_seen: the place.
            purge: with the first value of a run, the place from which TensorBoard drops what lies there.
        """
        if self._config is not None:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog

            start = Event(
                step=samples_seen if purge is None else purge,
                session_log=SessionLog(status=SessionLog.START),
            )
            self.experiment.file_writer.add_event(start)
            self.experiment.add_text("config", self._config, samples_seen)
            self._config = None
        self.samples_seen = samples_seen
        return self.experiment

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Keep the configuration; it becomes the text `config` when the first value is written."""
        self._config = f"```\n{yaml.safe_dump(dict(params), sort_keys=False)}```"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values; those of a test come without a place and get the last one."""
        writer = self._at(int(metrics.get(SAMPLES_SEEN, self.samples_seen)))
        for key, value in metrics.items():
            if key not in (SAMPLES_SEEN, "epoch"):
                writer.add_scalar(key, value, self.samples_seen)

    @rank_zero_only
    def log_images(self, key: str, images: Mapping[str, Path | Image.Image], samples_seen: int) -> None:
        """Add images: a single one as `KEY`, several as `KEY/CAPTION`."""
        writer = self._at(samples_seen)
        for caption, image in images.items():
            shown = Image.open(image) if isinstance(image, Path) else image
            tag = key if len(images) == 1 else f"{key}/{caption}"
            writer.add_image(tag, np.asarray(shown.convert("RGB")), samples_seen, dataformats="HWC")

    @rank_zero_only
    def log_rows(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], samples_seen: int
    ) -> None:
        """Add a table as a text in Markdown, without the columns that hold images."""
        images = {index for row in rows for index, cell in enumerate(row) if isinstance(cell, Image.Image)}
        kept = [index for index in range(len(columns)) if index not in images]
        cells = [[_cell(row[index]) for index in kept] for row in rows]
        lines = [[columns[index] for index in kept], ["---"] * len(kept), *cells]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        self._at(samples_seen).add_text(key, text, samples_seen)

    @rank_zero_only
    def log_best(
        self, scores: Mapping[str, float], checkpoints: Mapping[str, Path], samples_seen: int
    ) -> None:
        """Add the validation scores of the best checkpoint."""
        # A run that is resumed for its test alone begins here: its curves are complete.
        writer = self._at(samples_seen, purge=samples_seen + 1)
        for name, score in scores.items():
            writer.add_scalar(f"best/{name}", score, samples_seen)

    @rank_zero_only
    def save(self) -> None:
        """Write what is buffered."""
        if self._experiment is not None:
            self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is buffered; a test may follow the training."""
        self.save()

    @rank_zero_only
    def finish(self, failed: bool) -> None:
        """Close the event file."""
        if self._experiment is not None:
            self.experiment.close()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace("|", "\\|")
