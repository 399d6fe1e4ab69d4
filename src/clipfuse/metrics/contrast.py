"""Metrics of contrast and sharpness, of the fused image alone."""

from typing import Literal

import torch
from torch import Tensor

from clipfuse.metrics.definition import metric


@metric("SD", higher_is_better=True, bounds=(0, 127.5), smallest=1)
def standard_deviation(
    fused: Tensor, infrared: Tensor | None = None, visible: Tensor | None = None
) -> Tensor:
    """SD: population standard deviation (Rao, Meas. Sci. Technol. 1997).

    Returns:
        (N,) in [0, 127.5]; higher is better, though noise raises it too.
    """
    return fused.flatten(1).std(dim=1, correction=0)


@metric("SF", higher_is_better=True, bounds=(0, 255 * 2**0.5))
def spatial_frequency(fused: Tensor, infrared: Tensor | None = None, visible: Tensor | None = None) -> Tensor:
    """SF: root of the mean squared steps along rows plus those along columns (Eskicioglu and Fisher, 1995).

    Each mean is over its own differences: H (W - 1) of them along rows, (H - 1) W along columns.

    Returns:
        (N,) in [0, 360.6]; higher is better, though noise raises it too.
    """
    along_rows = fused.diff(dim=3).square().mean((1, 2, 3))
    along_columns = fused.diff(dim=2).square().mean((1, 2, 3))
    return (along_rows + along_columns).sqrt()


@metric("AG", higher_is_better=True, bounds=(0, 255))
def average_gradient(
    fused: Tensor,
    infrared: Tensor | None = None,
    visible: Tensor | None = None,
    *,
    divisor: Literal["pixels", "cells"] = "pixels",
) -> Tensor:
    """AG: mean of sqrt((gx^2 + gy^2) / 2), central differences, one-sided at the border (Cui et al., 2015).

    Keyword Args:
        divisor: the sum is divided by the number of "pixels", H W, or of "cells", (H - 1) (W - 1).

    Returns:
        (N,) in [0, 255], with "cells" slightly above; higher is better, though noise raises it too.
    """
    slopes = [_central_difference(fused, dim).square() for dim in (2, 3)]
    total = torch.stack(slopes).sum(0).div(2).sqrt().sum((1, 2, 3))
    height, width = fused.shape[2:]
    return total / (height * width if divisor == "pixels" else (height - 1) * (width - 1))


def _central_difference(plane: Tensor, dim: int) -> Tensor:
    steps = plane.diff(dim=dim)
    # With the outermost steps repeated, the mean of two neighbours is one-sided there.
    before = torch.cat([steps.narrow(dim, 0, 1), steps], dim)
    after = torch.cat([steps, steps.narrow(dim, -1, 1)], dim)
    return (before + after) / 2
