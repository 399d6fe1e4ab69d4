"""The texts and images that a loss logs at validation, written to the run folder."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

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

    Args:
        run_dir: the run folder.
    """

    def __init__(self, run_dir: str) -> None:
        self.folder = Path(run_dir) / "notes"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the artifacts of the untrained network; a resumed run has them already."""
        if pl_module.global_step or not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        batch = pl_module.transfer_batch_to_device(next(iter(data.val_dataloader())), pl_module.device, 0)
        batch = trainer.precision_plugin.convert_input(batch)
        with evaluating(pl_module):
            self._write(trainer, pl_module, batch)

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
