"""Metrics of linear correlation between the fused image and its sources."""

import torch
from torch import Tensor

from clipfuse.metrics.definition import metric
from clipfuse.metrics.sharing import shared


@metric("CC", higher_is_better=True, bounds=(-1, 1))
def correlation_coefficient(fused: Tensor, infrared: Tensor, visible: Tensor) -> Tensor:
    """CC: mean of the two Pearson correlations of the fused image with its sources.

    Args:
        fused: (N, 1, H, W) in 0..255.
        infrared: the same shape.
        visible: the same shape.

    Returns:
        (N,) in [-1, 1]; higher is better. A correlation with a constant image, 0/0, counts as 0: a
        constant explains nothing.
    """
    return (pearson(infrared, fused) + pearson(visible, fused)) / 2


@metric("SCD", higher_is_better=True, bounds=(-2, 2))
def sum_of_correlations_of_differences(fused: Tensor, infrared: Tensor, visible: Tensor) -> Tensor:
    """SCD: r(F - V, I) + r(F - I, V) (Aslantas and Bendes, AEU 2015): what one source leaves is the other.

    Args:
        fused: (N, 1, H, W) in 0..255.
        infrared: the same shape.
        visible: the same shape.

    Returns:
        (N,) in [-2, 2]; higher is better. A correlation with a constant, as where the fused image
        equals a source, counts as 0.
    """
    return pearson(infrared, fused - visible) + pearson(visible, fused - infrared)


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Return the Pearson correlation of each pair of planes, (N,); 0 where one of them is constant."""
    (x, x_square), (y, y_square) = _centred(x), _centred(y)
    norm = (x_square * y_square).sqrt()
    return torch.where(norm > 0, (x * y).sum(1) / torch.where(norm > 0, norm, 1), 0)


@shared
def _centred(plane: Tensor) -> tuple[Tensor, Tensor]:
    flat = plane.flatten(1)
    # A constant's mean may be off by a rounding: its deviations are set to what they are.
    low, high = flat.detach().aminmax(dim=1, keepdim=True)
    flat = torch.where(low == high, 0, flat - flat.mean(1, keepdim=True))
    return flat, flat.square().sum(1)
