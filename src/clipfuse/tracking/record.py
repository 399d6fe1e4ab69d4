"""What loggers show of a run beside curves: samples over time, a table of the test, the best scores."""

from collections.abc import Mapping
from math import isfinite, nan
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from PIL.Image import Image
from torch import Tensor

from clipfuse.errors import UserError
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.ops.color import eight_bit_rgb, luma_chroma_to_rgb
from clipfuse.ops.ranks import gather_interleaved
from clipfuse.tracking.base import SummaryLogger, media_loggers, samples_seen
from clipfuse.tracking.pictures import draw_panel, to_picture
from clipfuse.training.checkpoints import LastCheckpoint
from clipfuse.types import FusionBatch

SAMPLES = 4  # pairs of validation that are shown each time
THUMBNAILS = 256  # rows of the test table with images; the others have scores alone
SIDE = 160  # longest side of a thumbnail in pixels


class MediaRecord(Callback):
    """Shows images, a table and the best scores of a run on each `MediaLogger`.

    - `val/samples`: infrared, visible and fused of the same few pairs at each validation.
    - `test/fused`: the first fused test images at full resolution, on loggers that have a number `images`.
    - `trivial/FUSION/METRIC`, in the summary of such loggers: means of the trivial fusions, where their
      `trivial` is true.
    - `test/images`: a table with a row per test pair, thumbnails and scores.
    - `best/METRIC`: the validation scores of `best.ckpt`, at the end of the training, with the files
      `best.ckpt` and `last.ckpt` under the aliases best and latest.
    """

    def __init__(self) -> None:
        self.samples: dict[str, Path | Image] = {}
        self.rows: list[dict[str, Any]] = []
        self.fused: list[tuple[str, Image]] = []
        self.trivial: list[dict[str, float]] = []

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: FusionBatch, *_: Any
    ) -> None:
        """Draw the first pairs."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        for index in range(min(SAMPLES - len(self.samples), len(batch))):
            shown = _shown(batch, outputs, index)
            self.samples[batch.sample_ids[index]] = draw_panel(list(shown), [list(shown.values())], SIDE)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the first pairs."""
        for logger in media_loggers(trainer) if self.samples else []:
            logger.log_images("val/samples", self.samples, samples_seen(pl_module))
        self.samples = {}

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove what is left of an earlier test."""
        self.rows, self.fused, self.trivial = [], [], []
        self._metrics: Any = cast(Any, pl_module).test_metrics.clone()

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: FusionBatch, *_: Any
    ) -> None:
        """Add the row of a pair."""
        row: dict[str, Any] = {"name": batch.sample_ids[0]}
        number = len(self.rows) * trainer.world_size + trainer.global_rank
        thumbnails = number < THUMBNAILS
        if any(number < getattr(logger, "images", 0) for logger in media_loggers(trainer)):
            self.fused.append((batch.sample_ids[0], to_picture(_shown(batch, outputs, 0)["fused"])))
        if any(getattr(logger, "trivial", False) for logger in media_loggers(trainer)):
            self.trivial.append(self._score_trivial(batch))
        for kind, image in _shown(batch, outputs, 0).items():
            row[kind] = _thumbnail(image) if thumbnails else None
        scores = {name: float(score) for name, score in outputs["scores"].items()}
        self.rows.append(row | {name: score if isfinite(score) else None for name, score in scores.items()})

    def _score_trivial(self, batch: FusionBatch) -> dict[str, float]:
        from clipfuse.metrics.trivial import trivial_fusions

        bands = batch.infrared, batch.visible
        return {
            f"{name.replace(':', '/')}/{metric.removeprefix('test/')}": float(score)
            for name, fused in trivial_fusions(*bands).items()
            for metric, score in self._metrics(
                fused.to(batch.visible), *bands, target_mask=batch.target_mask
            ).items()
        }

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the table."""
        rows = gather_interleaved(self.rows)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        for logger in media_loggers(trainer) if rows else []:
            table = [[row.get(name) for name in columns] for row in rows]
            logger.log_rows("test/images", columns, table, samples_seen(pl_module))
        fused, trivial = gather_interleaved(self.fused), gather_interleaved(self.trivial)
        names = dict.fromkeys(name for scores in trivial for name in scores)
        defined = {name: [s[name] for s in trivial if isfinite(s.get(name, nan))] for name in names}
        means = {name: fmean(scores) for name, scores in defined.items() if scores}
        for logger in media_loggers(trainer):
            if shown := dict(fused[: getattr(logger, "images", 0)]):
                logger.log_images("test/fused", shown, samples_seen(pl_module))
            if means and isinstance(logger, SummaryLogger):
                logger.log_summary(means)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the best scores and the checkpoints."""
        if not trainer.is_global_zero:
            return
        files: dict[str, Path] = {}
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                files["best"] = Path(callback.best_model_path)
            elif isinstance(callback, LastCheckpoint):
                files["latest"] = Path(callback.path)
        files = {alias: path.resolve() for alias, path in files.items() if path.is_file()}
        scores = _scores(files["best"]) if "best" in files else {}
        for logger in media_loggers(trainer):
            logger.log_best(scores, files, samples_seen(pl_module))


def _shown(batch: FusionBatch, outputs: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """Return what is shown of a pair: (1 or 3, H, W) in [0, 1], in colour where the visible image has it."""
    return {
        "infrared": batch.infrared[index],
        "visible": luma_chroma_to_rgb(batch.visible[index], batch.chroma[index]),
        "fused": eight_bit_rgb(outputs["fused"][index], outputs["chroma"][index]),
    }


def _thumbnail(image: Tensor) -> Image:
    thumbnail = to_picture(image)
    thumbnail.thumbnail((SIDE, SIDE))
    return thumbnail


def _scores(checkpoint: Path) -> dict[str, float]:
    """Return the validation scores a checkpoint was saved with, and its `samples_seen`."""
    try:
        saved = read_checkpoint(checkpoint)["clipfuse"]
    except UserError:
        return {}  # removed or damaged since; no reason to fail a finished training
    prefix = "val/metric/"
    scores = {name: score for name, score in saved["scores"].items() if name.startswith(prefix)}
    scores = {name.removeprefix(prefix): score for name, score in scores.items()}
    return scores | {"samples_seen": saved["samples_seen"]}
