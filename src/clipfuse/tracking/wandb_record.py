"""What a W&B run shows beside curves: samples over time, a table of the test, best values, the model."""

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from PIL.Image import Image
from torch import Tensor

from clipfuse.errors import UserError
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.ops.color import luma_chroma_to_rgb
from clipfuse.ops.ranks import gather_interleaved
from clipfuse.tracking.pictures import draw_panel, to_picture
from clipfuse.tracking.wandb_run import RunWandbLogger
from clipfuse.training.checkpoints import LastCheckpoint
from clipfuse.training.module import FusionModule
from clipfuse.types import SAMPLES_SEEN, FusionBatch

SAMPLES = 4  # pairs of validation that are shown each time
PICTURED = 256  # rows of the test table with pictures; the others have scores alone
SIDE = 160  # longest side of a thumbnail in pixels


class WandbRecord(Callback):
    """Writes pictures, table, best values and the model of a run to W&B.

    - `val/samples`: infrared, visible, fused of the same few pairs at each validation.
    - `test/images`: a row per test pair, with thumbnails and scores, once.
    - `best/METRIC` in the summary: the validation scores of `best.ckpt`.
    - `model-ID`: one artifact with `best.ckpt` and `last.ckpt`, under the aliases best and latest.

    Args:
        logger: of the run.
    """

    def __init__(self, logger: RunWandbLogger) -> None:
        self.logger = logger
        self.samples: dict[str, Image] = {}
        self.rows: list[dict[str, Any]] = []

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: FusionBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first pairs."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        for index in range(min(SAMPLES - len(self.samples), len(batch))):
            planes = _planes(batch, outputs["fused"], index)
            self.samples[batch.sample_ids[index]] = draw_panel(list(planes), [list(planes.values())], SIDE)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show them."""
        if self.samples:
            assert isinstance(pl_module, FusionModule)
            self.logger.log_pictures("val/samples", self.samples, pl_module.samples_seen)
        self.samples = {}

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget an earlier test."""
        self.rows = []

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: FusionBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a row."""
        assert isinstance(outputs, Mapping)
        row: dict[str, Any] = {"name": batch.sample_ids[0]}
        pictured = batch_idx * trainer.world_size + trainer.global_rank < PICTURED
        for kind, plane in _planes(batch, outputs["fused"], 0).items():
            row[kind] = _thumbnail(plane) if pictured else None
        scores = {name: float(score) for name, score in outputs["scores"].items()}
        self.rows.append(row | {name: score if isfinite(score) else None for name, score in scores.items()})

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the table."""
        rows = gather_interleaved(self.rows)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        self.rows = []
        if rows:
            self.logger.log_rows(
                "test/images", columns, [[row.get(name) for name in columns] for row in rows]
            )

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the best values and the model."""
        if not trainer.is_global_zero:
            return
        files: dict[str, Path] = {}
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                files["best"] = Path(callback.best_model_path)
            elif isinstance(callback, LastCheckpoint):
                files["latest"] = Path(callback.path)
        files = {alias: path.resolve() for alias, path in files.items() if path.is_file()}
        best = _scores(files["best"]) if "best" in files else {}

        def call(run: Any) -> None:
            import wandb

            run.summary.update({f"best/{name}": value for name, value in best.items()})
            if not files:
                return
            artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=dict(best))
            for path in files.values():
                # Nothing changes a checkpoint of a finished run, so it need not be copied.
                artifact.add_file(str(path), policy="immutable", skip_cache=True)
            run.log_artifact(artifact, aliases=list(files))

        self.logger.write(call)


def _planes(batch: FusionBatch, fused: Tensor, index: int) -> dict[str, Tensor]:
    """Return what is shown of a pair: (1 or 3, H, W) in [0, 1], in colour where the visible image has it."""
    chroma = batch.chroma[index]
    return {
        "infrared": batch.infrared[index],
        "visible": luma_chroma_to_rgb(batch.visible[index], chroma),
        "fused": luma_chroma_to_rgb(fused[index].to(chroma.dtype), chroma),
    }


def _thumbnail(plane: Tensor) -> Image:
    picture = to_picture(plane)
    picture.thumbnail((SIDE, SIDE))
    return picture


def _scores(checkpoint: Path) -> dict[str, float]:
    """Return the validation scores a checkpoint was saved with, and the samples it has seen."""
    try:
        saved = read_checkpoint(checkpoint)["clipfuse"]
    except UserError:
        return {}  # removed or cut since: W&B stops no training
    scores = {name: value for name, value in saved["scores"].items() if name.startswith("val/metric/")}
    return {name.removeprefix("val/metric/"): value for name, value in scores.items()} | {
        SAMPLES_SEEN.rpartition("/")[2]: saved["samples_seen"]
    }
