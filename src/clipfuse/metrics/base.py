"""How a fusion metric is averaged: over images, on the 8-bit luma that a file would hold."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from clipfuse.ops.checks import check_planes
from clipfuse.ops.depth import to_bytes


class FusionMetric(Metric):
    """The mean over images of one score; its states are one sum and one count, safe on uneven ranks.

    A subclass states `higher_is_better` and `score`, a pure function of (fused, infrared, visible),
    each (N, 1, H, W) float64 in 0..255, to one score per image, (N,).
    """

    full_state_update = False
    score: Callable[[Tensor, Tensor, Tensor], Tensor]
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, fused: Tensor, infrared: Tensor, visible: Tensor) -> None:
        """Add a batch of (N, 1, H, W) luma planes in [0, 1]; they are rounded to 8 bits first."""
        check_planes(fused=fused, infrared=infrared, visible=visible)
        planes = (to_bytes(plane).double() for plane in (fused, infrared, visible))
        scores = type(self).score(*planes)
        self.total += scores.sum()
        self.count += scores.numel()

    def compute(self) -> Tensor:
        """Return the mean over all images seen, a float64 scalar."""
        return self.total / self.count


class FusionMetrics(MetricCollection):
    """Metrics under one named protocol; every number they give is reported with that name.

    Args:
        protocol: name and version, as "basic-0".
        metrics: metric by short name, as "EN".
    """

    def __init__(self, protocol: str, metrics: Mapping[str, FusionMetric]) -> None:
        # Compute groups would merge two metrics whose sums agree after the first image.
        super().__init__(dict(metrics), compute_groups=False)
        self.protocol = protocol
