"""Metrics of contrast and sharpness, of the fused image alone."""

from typing import Literal

import torch
from torch import Tensor

from clipfuse.metrics.definition import metric

Arithmetic = Literal["exact", "uint8"]


@metric("SD", higher_is_better=True, bounds=(0, 127.5), smallest=1)
def standard_deviation(
    fused: Tensor,
    infrared: Tensor | None = None,
    visible: Tensor | None = None,
    *,
    arithmetic: Arithmetic = "exact",
) -> Tensor:
    """SD: population standard deviation (Rao, Meas. Sci. Technol. 1997).

    Keyword Args:
        arithmetic: "uint8" rounds each difference from the mean and its square to 0..255, as a program in
            MATLAB does that is handed an 8-bit image: darker pixels than the mean count as 0, and those 16
            levels brighter or more all as 255.

    Returns:
        (N,) in [0, 127.5], with "uint8" [0, 16); higher is better, though noise raises it too.
    """
    if arithmetic == "exact":
        return fused.flatten(1).std(dim=1, correction=0)
    above = (fused - fused.mean((1, 2, 3), keepdim=True) + 0.5).floor().clamp_min(0)
    return above.square().clamp_max(255).mean((1, 2, 3)).sqrt()


@metric("SF", higher_is_better=True, bounds=(0, 255 * 2**0.5))
def spatial_frequency(
    fused: Tensor, infrared: Tensor | None = None, visible: Tensor | None = None, *, scale: float = 1.0
) -> Tensor:
    """SF: root of the mean squared steps along rows plus those along columns (Eskicioglu and Fisher, 1995).

    Each mean is over its own differences: H (W - 1) of them along rows, (H - 1) W along columns.

    Keyword Args:
        scale: factor on the image first; 1/255 for toolkits that score images in [0, 1].

    Returns:
        (N,) in [0, 360.6] times `scale`; higher is better, though noise raises it too.
    """
    along_rows = fused.diff(dim=3).square().mean((1, 2, 3))
    along_columns = fused.diff(dim=2).square().mean((1, 2, 3))
    return (along_rows + along_columns).sqrt() * scale


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
