"""Fusing and scoring a backbone: all that an evaluation needs; training extends it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import nan
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from clipfuse.errors import UserError
from clipfuse.networks.apply import ROUNDING, passed_planes
from clipfuse.ops.color import eight_bit_rgb, luma_chroma_to_rgb
from clipfuse.types import FusionBatch, FusionOutput


@contextmanager
def naming(sample_ids: Sequence[str]) -> Iterator[None]:
    """Turn the ValueError of a metric into a UserError that names the images and the remedy."""
    try:
        yield
    except ValueError as error:
        ours = ": fused " in str(error)
        advice = "the network's output is broken; lower optimizer.lr" if ours else "leave these images out"
        raise UserError(f"{', '.join(sample_ids)}: {error}; {advice}") from error


def check_output(output: object, infrared: Tensor, network: str) -> FusionOutput:
    """Return the output of a backbone if it is a `FusionOutput` of the right shape and type.

    Raises:
        UserError: it is not; the message names the network and what was expected.
    """
    expected = "expected a clipfuse.types.FusionOutput, its 'fused' of the shape of the infrared images"
    if not isinstance(output, FusionOutput):
        raise UserError(f"the backbone {network} returned {type(output).__name__}; {expected}")
    fused = output.fused
    if not isinstance(fused, Tensor) or not fused.is_floating_point() or fused.shape != infrared.shape:
        found = f"{fused.dtype} {tuple(fused.shape)}" if isinstance(fused, Tensor) else type(fused).__name__
        raise UserError(
            f"the backbone {network} returned 'fused' as {found}; {expected}: "
            f"floating point {tuple(infrared.shape)}"
        )
    shape = (len(fused), 2, *fused.shape[-2:])
    if output.chroma is not None and output.chroma.shape != shape:
        raise UserError(
            f"the backbone {network} returned 'chroma' as {tuple(output.chroma.shape)}; expected Cb and Cr, "
            f"{shape}, or None to keep those of the visible image"
        )
    return output


def scored_images(
    metrics: MetricCollection, fused: Tensor, batch: FusionBatch, chroma: Tensor | None = None
) -> dict[str, Tensor]:
    """Return what metrics take: planes of luma, or colour images where their protocol scores each channel.

    Args:
        metrics: with a protocol.
        fused: luma, (N, 1, H, W).
        batch: the sources.
        chroma: of the fused images, (N, 2, H, W); None: that of the visible images.
    """
    sources = {"infrared": batch.infrared, "visible": batch.visible}
    if cast(Any, metrics).protocol.channels:
        if bool((fused.clamp(0, 1) - fused).abs().max() <= ROUNDING):  # else metrics refuse it as it is
            fused = eight_bit_rgb(fused, batch.chroma if chroma is None else chroma)
        sources["visible"] = luma_chroma_to_rgb(batch.visible, batch.chroma)
    return {"fused": fused, **sources}


class ScoringModule(L.LightningModule):
    """Tests a backbone.

    Args:
        backbone: (infrared, visible) -> `FusionOutput`.
        metrics: scores of (fused, infrared, visible), luma in [0, 1]; a copy is used.
    """

    def __init__(self, backbone: nn.Module, metrics: MetricCollection) -> None:
        super().__init__()
        self.backbone = backbone
        self.test_metrics = metrics.clone(prefix="test/")

    def forward(self, infrared: Tensor, visible: Tensor, chroma: Tensor | None = None) -> FusionOutput:
        """Fuse (N, 1, H, W) luma planes in [0, 1] of any size; the chroma is for a network that learns it."""
        output = self.backbone(*passed_planes(self.backbone, infrared, visible, chroma))
        return check_output(output, infrared, type(self.backbone).__name__)

    def test_step(self, batch: FusionBatch, batch_idx: int) -> dict[str, Any]:
        """Fuse and score one pair; return its fused luma, its chroma and its scores, for callbacks."""
        output = self(batch.infrared, batch.visible, batch.chroma)
        fused = output.fused.to(batch.visible.dtype)
        chroma = batch.chroma if output.chroma is None else output.chroma.to(batch.chroma.dtype)
        with naming(batch.sample_ids):
            images = scored_images(self.test_metrics, fused, batch, chroma)
            scores = self.test_metrics(**images, target_mask=batch.target_mask)
        named = {name.removeprefix("test/"): score for name, score in scores.items()}
        return {"fused": fused, "chroma": chroma, "scores": named}

    def on_test_epoch_end(self) -> None:
        """Log the means; "step" names the row for the loggers."""
        self.log_means(self.test_metrics, "test")
        self.log_dict({"step": float(self.trainer.global_step)})

    def log_means(self, metrics: MetricCollection, split: str) -> None:
        """Log each mean, and the number of images its metric is not defined for; then reset the metrics.

        A mean that is not defined is in no curve; callbacks get NaN in place of an earlier value.
        """
        means = metrics.compute()
        self.log_dict({name: mean for name, mean in means.items() if mean.isfinite()})
        self.forget(name for name, mean in means.items() if not mean.isfinite())
        missing = cast(Any, metrics).undefined()
        self.log_dict({f"{split}/undefined/{name}": float(count) for name, count in missing.items()})
        metrics.reset()

    def forget(self, names: Iterable[str]) -> None:
        """Let callbacks find NaN under the names of values that are not defined, not those of earlier."""
        for name in names:
            self.trainer.callback_metrics[name] = torch.tensor(nan)
