"""What a loss has to say beside numbers: words and pictures, at each validation."""

import csv
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from clipfuse.files import write_atomically
from clipfuse.tracking.pictures import draw_panel, write_panel
from clipfuse.tracking.wandb_run import RunWandbLogger
from clipfuse.training.module import FusionModule
from clipfuse.types import FusionBatch

_COLUMNS = ["update", "name", "text"]


class LossNotes(Callback):
    """Writes `notes/`: words.csv (update, name, text) and a panel, of the first pair of validation.

    At each validation, and before the first update, so that one sees what training has changed.

    Nothing is written for a loss without notes.

    Args:
        run_dir: the run folder.
    """

    def __init__(self, run_dir: str) -> None:
        self.folder = Path(run_dir) / "notes"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write how it begins; a resumed run has that already."""
        if pl_module.global_step or not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        batch = pl_module.transfer_batch_to_device(next(iter(data.val_dataloader())), pl_module.device, 0)
        batch = trainer.precision_plugin.convert_input(batch)
        pl_module.eval()
        self._write(trainer, pl_module, batch)
        pl_module.train()

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
        """Write all words to W&B as a table."""
        rows = self._rows() if trainer.is_global_zero else []
        for logger in trainer.loggers:
            if isinstance(logger, RunWandbLogger) and rows:
                logger.log_rows("notes/words", _COLUMNS, [[int(row[0]), *row[1:]] for row in rows])

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: FusionBatch) -> None:
        assert isinstance(pl_module, FusionModule)
        notes = pl_module.notes(batch)
        if notes is None:
            return
        update = pl_module.global_step
        kept = [row for row in self._rows() if int(row[0]) < update]
        words = [[str(update), name, text] for name, text in notes.texts.items()]
        with write_atomically(self.folder / "words.csv") as file:
            csv.writer(file).writerows([_COLUMNS, *kept, *words])
        path = self.folder / f"{update:06d}.png"
        captions, images = zip(*notes.pictures, strict=True)
        write_panel(path, draw_panel(captions, [images], cell_height=160))
        for logger in trainer.loggers:
            if isinstance(logger, RunWandbLogger):
                caption = "; ".join(f"{row[1]}: {row[2]}" for row in words)
                logger.log_pictures("notes", {caption: path}, pl_module.samples_seen)

    def _rows(self) -> list[list[str]]:
        path = self.folder / "words.csv"
        if not path.is_file():
            return []
        with path.open(newline="") as file:
            return list(csv.reader(file))[1:]
