"""The files of a test: scores, fused images, a panel."""

from collections.abc import Mapping
from math import nan
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from clipfuse.images import write_png
from clipfuse.ops.color import eight_bit_rgb, luma_chroma_to_rgb
from clipfuse.ops.ranks import gather_interleaved
from clipfuse.runs.scores import write_scores
from clipfuse.tracking.base import media_loggers, samples_seen
from clipfuse.tracking.pictures import draw_panel, write_panel
from clipfuse.types import FusionBatch


class TestWriter(Callback):
    """Writes `test/`: metrics.json, per_image.csv, fused luma, fused colour, and a panel.

    Args:
        run_dir: the run folder.
        panel_rows: pairs in `panel.png`, 1 or more.
        save_sources: also write the tested pairs, to `test/infrared` and `test/visible`; for rendered data,
            which is in no other file.

    Raises:
        ValueError: `panel_rows` below 1.
    """

    __test__ = False

    def __init__(self, run_dir: str, panel_rows: int = 4, save_sources: bool = False) -> None:
        if panel_rows < 1:
            raise ValueError(f"panel_rows is {panel_rows}; expected 1 or more")
        self.folder = Path(run_dir) / "test"
        self.panel_rows = panel_rows
        self.save_sources = save_sources
        self.scores: list[dict[str, Any]] = []
        self.panel: list[list[Tensor]] = []
        self.scenes: Mapping[str, str] = {}

    @property
    def panel_path(self) -> Path:
        """File of the panel."""
        return self.folder / "panel.png"

    def columns(self) -> dict[str, list[float]]:
        """Return the scores by metric, one per image; NaN where a metric is not defined."""
        names = dict.fromkeys(key for row in self.scores for key in row if key not in ("name", "scene"))
        return {name: [row.get(name, nan) for row in self.scores] for name in names}

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the scores of an earlier test."""
        self.scores, self.panel = [], []
        data: Any = getattr(trainer, "datamodule", None)
        self.scenes = getattr(getattr(data, "source", None), "scenes", dict)()

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: FusionBatch, *_: Any
    ) -> None:
        """Write the images of one pair."""
        name, fused = batch.sample_ids[0], outputs["fused"][0]
        planes = {"fused": fused, "color": eight_bit_rgb(fused, outputs["chroma"][0])}
        visible = luma_chroma_to_rgb(batch.visible[0], batch.chroma[0])
        if self.save_sources:
            planes |= {"infrared": batch.infrared[0], "visible": visible}
            if batch.target_mask is not None:
                planes["masks"] = batch.target_mask[0].to(fused.dtype)
        for kind, plane in planes.items():
            write_png(self.folder / kind / f"{name}.png", plane, overwrite=True)
        scores = {key: float(value) for key, value in outputs["scores"].items()}
        self.scores.append({"name": name, "scene": self.scenes.get(name, name), **scores})
        if len(self.panel) < self.panel_rows:
            self.panel.append([plane.cpu() for plane in (batch.infrared[0], visible, fused, planes["color"])])

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write scores and panel."""
        self.scores = gather_interleaved(self.scores)
        self.panel = gather_interleaved(self.panel)[: self.panel_rows]
        if not trainer.is_global_zero or not self.scores:
            return
        metrics: Any = pl_module.test_metrics
        protocol, columns = metrics.protocol, self.columns()
        means = {name: float(trainer.callback_metrics.get(f"test/{name}", nan)) for name in columns}
        write_scores(self.folder, self.scores, protocol, means, metrics.undefined())
        panel = draw_panel(["infrared", "visible", "fused luma", "fused"], self.panel)
        write_panel(self.panel_path, panel)
        for logger in media_loggers(trainer):
            caption = "infrared, visible, fused luma, fused"
            logger.log_images("test/panel", {caption: self.panel_path}, samples_seen(pl_module))
