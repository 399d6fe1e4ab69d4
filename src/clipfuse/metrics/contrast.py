"""Metrics of contrast."""

from torch import Tensor

from clipfuse.metrics.base import FusionMetric


def standard_deviation(
    fused: Tensor, infrared: Tensor | None = None, visible: Tensor | None = None
) -> Tensor:
    """SD: population standard deviation of the fused image (Rao, Meas. Sci. Technol. 1997).

    Args:
        fused: (N, 1, H, W) in 0..255.
        infrared: not used; every metric takes three images.
        visible: not used.

    Returns:
        (N,) in [0, 127.5]; higher is better, though noise raises it too.
    """
    return fused.flatten(1).std(dim=1, correction=0)


class StandardDeviation(FusionMetric):
    """Mean SD over images, see `standard_deviation`."""

    higher_is_better = True
    score = staticmethod(standard_deviation)
