"""A metric: how much neighbouring pixels differ."""

from torch import Tensor

from clipfuse.metrics import metric


@metric("roughness", higher_is_better=False, bounds=(0, 255))
def roughness(fused: Tensor, infrared: Tensor | None = None, visible: Tensor | None = None) -> Tensor:
    return fused.diff(dim=3).abs().mean(dim=(1, 2, 3))
