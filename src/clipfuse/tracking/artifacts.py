"""The texts and images that a loss logs at validation, written to the run folder."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch.nn.functional import interpolate

from clipfuse.errors import UserError
from clipfuse.files import csv_text, read_csv, write_atomically
from clipfuse.ops.modes import evaluating
from clipfuse.tracking.base import media_loggers
from clipfuse.tracking.pictures import draw_panel, write_panel
from clipfuse.training.module import FusionModule
from clipfuse.types import FusionBatch

_COLUMNS = ["update", "name", "text"]


class ArtifactWriter(Callback):
    """Writes `LossArtifacts` of the first validation pair to `notes/`: words.csv and an image per validation.

    They are also written before the first update, which shows what training changes. Nothing is written for a
    loss without artifacts.

    The images that a loss returns in training, `LossOutput.images` of rank 0, are drawn side by side every
    `images_every` updates, in notes/train-UPDATE.png.

    Args:
        run_dir: the run folder.
        images_every: updates between two such files, 1 or more.

    Raises:
        ValueError: `images_every` below 1.
    """

    def __init__(self, run_dir: str, images_every: int = 300) -> None:
        if images_every < 1:
            raise ValueError(f"images_every is {images_every}; expected 1 or more updates")
        self.folder = Path(run_dir) / "notes"
        self.images_every = images_every

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the artifacts of the untrained network; a resumed run has them already."""
        if pl_module.global_step or not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        batch = pl_module.transfer_batch_to_device(next(iter(data.val_dataloader())), pl_module.device, 0)
        batch = trainer.precision_plugin.convert_input(batch)
        with evaluating(pl_module):
            self._write(trainer, pl_module, batch)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw the images of the loss after every so many updates."""
        assert isinstance(pl_module, FusionModule)
        update, images = pl_module.global_step, pl_module.loss_images
        due = pl_module.between_updates and update % self.images_every == 0
        if not due or not images or not trainer.is_global_zero:
            return
        size = next(iter(images.values())).shape[1:]
        drawn = [interpolate(image[None].float(), size)[0].nan_to_num() for image in images.values()]
        path = self.folder / f"train-{update:06d}.png"
        write_panel(path, draw_panel(list(images), [drawn], cell_height=160))
        for logger in media_loggers(trainer):
            logger.log_images("train/images", {", ".join(images): path}, pl_module.samples_seen)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: FusionBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write after the first batch, while the loss is in eval mode."""
        if batch_idx == 0 and not trainer.sanity_checking and trainer.is_global_zero:
            self._write(trainer, pl_module, batch)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show all texts as a table."""
        assert isinstance(pl_module, FusionModule)
        rows = self._rows() if trainer.is_global_zero else []
        for logger in media_loggers(trainer) if rows else []:
            table = [[int(row[0]), *row[1:]] for row in rows]
            logger.log_rows("notes/words", _COLUMNS, table, pl_module.samples_seen)

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: FusionBatch) -> None:
        assert isinstance(pl_module, FusionModule)
        artifacts = pl_module.artifacts(batch)
        if artifacts is None:
            return
        update = pl_module.global_step
        kept = [row for row in self._rows() if int(row[0]) < update]
        texts = [[str(update), name, text] for name, text in artifacts.texts.items()]
        with write_atomically(self.folder / "words.csv") as file:
            file.write(csv_text(_COLUMNS, [*kept, *texts]))
        path = self.folder / f"{update:06d}.png"
        captions, images = zip(*artifacts.images, strict=True)
        write_panel(path, draw_panel(captions, [images], cell_height=160))
        caption = "; ".join(f"{name}: {text}" for name, text in artifacts.texts.items())
        for logger in media_loggers(trainer):
            logger.log_images("notes", {caption: path}, pl_module.samples_seen)

    def _rows(self) -> list[list[str]]:
        path, remedy = self.folder / "words.csv", "move it away; the run goes on with new notes"
        rows = read_csv(path, _COLUMNS, default=[], remedy=remedy)
        if bad := next((row for row in rows if not row["update"].isdecimal()), None):
            raise UserError(f"{path}: update is {bad['update']!r}, which is no number; {remedy}")
        return [[row[name] for name in _COLUMNS] for row in rows]
