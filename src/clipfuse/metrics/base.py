"""Metrics as torchmetrics classes: means over images and ranks, on the 8-bit luma that a file would hold."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from clipfuse.metrics.protocols import Protocol, protocol_named
from clipfuse.metrics.scoring import MEMORY, Scorer, image_scores
from clipfuse.metrics.sharing import sharing
from clipfuse.ops.memory import keep_freed_memory

PART = 2**19  # pixels scored at a time


class FusionMetric(Metric):
    """The mean over images of one metric under one protocol.

    Its states are a sum and two counts, so that ranks may have any number of images of any size, or none.

    Args:
        name: name of a metric, such as "Qabf"; see `DEFINITIONS`.
        protocol: a protocol or its name.

    Attributes:
        images: number of images in the mean last computed, over all ranks.
        undefined: number of images left out of it, for which the metric is not defined.

    Raises:
        ValueError: the protocol has no such metric.
    """

    full_state_update = False
    is_differentiable = False  # images are rounded first; the pure functions are, where it makes sense
    total: Tensor
    defined: Tensor
    missing: Tensor

    def __init__(self, name: str, protocol: str | Protocol = "strict", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        keep_freed_memory(MEMORY)
        self.protocol = protocol_named(protocol)
        self.definition = self.protocol.definition(name)
        self.definition.check_options(self.protocol.options.get(name, {}))
        self.images = self.undefined = 0
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("defined", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("missing", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """Whether a better fused image should score higher."""
        return self.definition.higher_is_better

    def update(
        self, fused: Tensor, infrared: Tensor, visible: Tensor, target_mask: Tensor | None = None
    ) -> None:
        """Add a batch.

        Args:
            fused: luma (N, 1, H, W), floating point in [0, 1]; rounded to 8 bits first. Under a protocol with
                `channels` also RGB, (N, 3, H, W).
            infrared: the same.
            visible: the same.
            target_mask: (N, 1, H, W) bool, True on targets. Without it a metric that needs one is
                not computed, and the images are not counted.

        Images too small for the metric are counted as undefined: a run must not fail at its end
        because of one of them.

        Raises:
            ValueError: a tensor that the metric cannot take; names both and what was expected.
        """
        if target_mask is None and self.definition.needs_mask:
            return
        scores = image_scores(self.protocol, self.definition.name, fused, infrared, visible, target_mask)
        finite = scores.isfinite()
        self.total += torch.where(finite, scores, 0).sum()
        self.defined += finite.sum()
        self.missing += (~finite).sum()

    def __repr__(self) -> str:
        """Return name and protocol."""
        return f"FusionMetric({self.definition.name!r}, {str(self.protocol)!r})"

    def compute(self) -> Tensor:
        """Return the mean over all images it is defined for, a float64 scalar; NaN if there are none."""
        self.images, self.undefined = int(self.defined), int(self.missing)
        return self.total / self.defined


class FusionMetrics(Scorer, MetricCollection):
    """A `Scorer` that also keeps the means over images and ranks; arguments and attributes are its own."""

    def __init__(self, protocol: str | Protocol = "strict", names: str | Iterable[str] = "full") -> None:
        Scorer.__init__(self, protocol, names)
        # Compute groups would merge two metrics whose sums agree after the first image.
        members: dict[str, Metric | MetricCollection] = {
            name: FusionMetric(name, self.protocol) for name in self.names
        }
        MetricCollection.__init__(self, members, compute_groups=False)

    def update(  # type: ignore[override]
        self, fused: Tensor, infrared: Tensor, visible: Tensor, target_mask: Tensor | None = None
    ) -> None:
        """Add a batch to every metric; what they have in common is computed once. See `FusionMetric`."""
        planes = {"fused": fused, "infrared": infrared, "visible": visible, "target_mask": target_mask}
        # A part of a few images stays in the cache; one of fifty takes eight times as long per image.
        images = min(64, max(1, PART // max(1, fused.shape[2:].numel())))
        for start in range(0, max(1, len(fused)), images):
            part = slice(start, start + images)
            with sharing():
                super().update(**{key: plane[part] for key, plane in planes.items() if plane is not None})

    def forward(self, *planes: Tensor, **named: Any) -> dict[str, Any]:
        """Add a batch, and return the means over this batch."""
        with sharing():
            return self._computed(super().forward(*planes, **named))

    def compute(self) -> dict[str, Any]:
        """Return the means by name; metrics that no image could be scored by are left out."""
        return self._computed(super().compute())

    def undefined(self) -> dict[str, int]:
        """Return how many images each mean last computed leaves out, even after `reset`; no zeros."""
        return {name: metric.undefined for name, metric in self._metrics().items() if metric.undefined}

    def _computed(self, means: dict[str, Any]) -> dict[str, Any]:
        # A collection is sorted by name; tables are not.
        seen = {name for name, metric in self._metrics().items() if metric.images or metric.undefined}
        names = [self._set_name(name) for name in self.protocol.metrics if name in seen]
        return {name: means[name] for name in names}

    def _metrics(self) -> dict[str, FusionMetric]:
        return cast(dict[str, FusionMetric], dict(self.items(keep_base=True, copy_state=False)))


class RunMetrics:
    """The metrics of a run: a few for every validation, all for the test, under one protocol.

    Args:
        protocol: name of a protocol, or one.
        validation: metrics or sets, as `FusionMetrics`.
        test: the same.
        own: metrics of yours, such as "my_metric.sharpness": functions under `@clipfuse.metrics.metric`.
            The set "full" has them, too.
        lpips_weights: file of VGG16's or AlexNet's weights, as in `clipfuse.ops.lpips.Lpips`; the set "full"
            then has LPIPS, too.

    Raises:
        ValueError: an unknown protocol, or a metric that it does not have; an own one that is none; a file
            that cannot be used.
    """

    def __init__(
        self,
        protocol: str | Protocol = "strict",
        validation: str | Iterable[str] = "fast",
        test: str | Iterable[str] = "full",
        own: Sequence[str] = (),
        lpips_weights: str | None = None,
    ) -> None:
        protocol = protocol_named(protocol)
        if lpips_weights is not None:
            protocol = protocol.with_lpips(lpips_weights)
        protocol = protocol.with_own(own)
        self.validation = FusionMetrics(protocol, validation)
        self.test = FusionMetrics(protocol, test)
