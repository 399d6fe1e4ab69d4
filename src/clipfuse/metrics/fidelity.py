"""Metrics of the squared error between the fused image and its sources."""

from math import log10
from typing import Literal

from torch import Tensor

from clipfuse.metrics.definition import metric
from clipfuse.metrics.sharing import shared


@metric("MSE", higher_is_better=False, bounds=(0, 255**2), smallest=1)
def mse(fused: Tensor, infrared: Tensor, visible: Tensor, *, scale: float = 1.0) -> Tensor:
    """MSE: mean of the two mean squared errors against the sources.

    Keyword Args:
        scale: factor on all planes first; 1/255 for toolkits that score planes in [0, 1].

    Returns:
        (N,) in [0, 65025]; lower is better. Least, though not 0, for the plain average of two
        different sources, so it rewards a flat compromise.
    """
    return _mean_error(fused, infrared, visible, scale)


@metric("PSNR", higher_is_better=True, bounds=(0, float("inf")), smallest=1)
def psnr(
    fused: Tensor,
    infrared: Tensor,
    visible: Tensor,
    *,
    peak: float | Literal["fused"] = 255.0,
    scale: float = 1.0,
    error: Literal["mean", "norm"] = "mean",
) -> Tensor:
    """PSNR: 10 log10(peak^2 / MSE) in dB; the MSE is averaged over both sources before the logarithm.

    Keyword Args:
        peak: the peak; "fused" takes the largest value of each fused image, as CDDFuse does, which
            makes a bright fused image score better than a darker one with the same error.
        scale: factor on all planes first. Toolkits that take 1/255 and leave the peak at 255 print
            20 log10(255) = 48.13 dB more.
        error: the MSE of one source: the "mean" of the squared differences, or, as VIFB has it, the root of
            their sum over the number of pixels ("norm"), which prints some 40 dB more.

    Returns:
        (N,) in [0, inf], below 0 too where `peak` is not 255; higher is better. Not finite, which
        is "not defined": +inf where the fused image equals both sources, and with `peak="fused"`
        -inf for a black one, NaN if all three are black.
    """
    mean = _mean_error(fused, infrared, visible, scale, error)
    decibel = (fused.amax((1, 2, 3)) * scale).log10() if peak == "fused" else log10(peak)
    return 20 * decibel - 10 * mean.log10()


def _mean_error(
    fused: Tensor, infrared: Tensor, visible: Tensor, scale: float, error: str = "mean"
) -> Tensor:
    errors = [_squared_error(fused, source) * scale**2 for source in (infrared, visible)]
    if error == "norm":
        errors = [(each / fused[0].numel()).sqrt() for each in errors]
    return (errors[0] + errors[1]) / 2


@shared
def _squared_error(fused: Tensor, source: Tensor) -> Tensor:
    return (fused - source).square().mean((1, 2, 3))
