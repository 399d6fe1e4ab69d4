"""LPIPS, whose network is a file that a user has: no such weights are in the package."""

from math import inf

from torch import Tensor

from clipfuse.metrics.definition import metric
from clipfuse.metrics.sharing import shared
from clipfuse.ops.lpips import SMALLEST, load_lpips

NO_WEIGHTS = (
    "needs a file with the weights of VGG16 or AlexNet: metrics.lpips_weights=FILE of train and evaluate, "
    "--lpips-weights FILE of score, lpips_weights=FILE in Python"
)


@metric("LPIPS", higher_is_better=False, bounds=(0, inf), smallest=SMALLEST)
def lpips(fused: Tensor, infrared: Tensor, visible: Tensor, *, weights: str | None = None) -> Tensor:
    """LPIPS: mean of the two distances to the sources, as a network sees them (Zhang et al. 2018).

    Images are gray, so each is given to the network three times over. The network computes in float32.

    Keyword Args:
        weights: file of VGG16's or AlexNet's weights, as in `clipfuse.ops.lpips.Lpips`; it decides which of
            the two is meant. Numbers of different weights must not be compared.

    Returns:
        (N,), 0 or more; lower is better. Not 0 where the sources differ; a copy of one of them has half of
        their distance, less than most images between them.
    """
    if weights is None:
        raise ValueError(NO_WEIGHTS)
    judge = load_lpips(weights)
    seen = [_units(plane, weights) for plane in (fused, infrared, visible)]
    return (judge.between(seen[0], seen[1]).double() + judge.between(seen[0], seen[2]).double()) / 2


@shared
def _units(plane: Tensor, weights: str) -> list[Tensor]:
    return load_lpips(weights).units(plane / 255)
