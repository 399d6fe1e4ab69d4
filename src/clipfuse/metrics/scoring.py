"""Scores of single images under a protocol, by torch alone."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from math import isnan, nan

import torch
from torch import Tensor

from clipfuse.metrics.definition import TooSmall, check_mask, check_side
from clipfuse.metrics.protocols import Protocol, protocol_named
from clipfuse.metrics.sharing import shared, sharing
from clipfuse.metrics.table import score_table
from clipfuse.ops.checks import check_planes
from clipfuse.ops.depth import to_levels

ROUNDING = 1e-5  # what float32 arithmetic may leave outside of [0, 1]


class Scorer:
    """Metrics under one protocol that score image by image; `FusionMetrics` averages them over a data set.

    Args:
        protocol: name of a protocol, or one.
        names: of metrics, of the sets "fast" and "full", or of both.

    Attributes:
        protocol: the protocol.
        names: of the metrics, in the order of the tables.

    Raises:
        ValueError: an unknown protocol, or a metric that it does not have.
    """

    def __init__(self, protocol: str | Protocol = "strict", names: str | Iterable[str] = "full") -> None:
        self.protocol = protocol_named(protocol)
        self.names = self.protocol.choose([names] if isinstance(names, str) else names)

    def score(
        self, fused: Tensor, infrared: Tensor, visible: Tensor, target_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the scores of a batch, metric -> (N,) float64; see `image_scores`."""
        found = {
            name: image_scores(self.protocol, name, fused, infrared, visible, target_mask)
            for name in self.names
        }
        return {name: scores for name, scores in found.items() if scores is not None}

    def score_all(
        self,
        fused: Mapping[str, Tensor],
        infrared: Tensor,
        visible: Tensor,
        target_mask: Tensor | None = None,
    ) -> dict[str, dict[str, float]]:
        """Return {method: {metric: score}} of several fusions of one pair; its sources are used once."""
        sources = [plane for plane in (infrared, visible, target_mask) if plane is not None]
        scores = {}
        with sharing() as memo:
            for method, plane in fused.items():
                row = self.score(plane, infrared, visible, target_mask)
                scores[method] = {metric: float(value) for metric, value in row.items()}
                memo.retain(*sources)
        return scores

    def table(self, rows: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
        """Return the scores per image, {method: {metric: scores}}, as a table of text; see `score_table`."""
        return score_table(self.protocol, rows)


def image_scores(
    protocol: Protocol,
    name: str,
    fused: Tensor,
    infrared: Tensor,
    visible: Tensor,
    target_mask: Tensor | None = None,
) -> Tensor | None:
    """Return the scores of one metric for a batch.

    Args:
        protocol: whose conventions the metric follows.
        name: of the metric.
        fused: luma (N, 1, H, W), floating point in [0, 1]; rounded to 8 bits first.
        infrared: the same.
        visible: the same.
        target_mask: (N, 1, H, W) bool, True on targets.

    Returns:
        (N,) float64; NaN where the images are too small for the metric. None where the metric needs a mask
        and there is none.

    Raises:
        ValueError: a tensor that the metric cannot take; names both and what was expected.
    """
    definition, options = protocol.definition(name), protocol.options.get(name, {})
    if target_mask is None and definition.needs_mask:
        return None
    _keep_freed_memory()
    planes = {"fused": fused, "infrared": infrared, "visible": visible}
    extra = {"target_mask": target_mask} if definition.takes_mask else {}
    count = len(fused)
    try:
        check_planes(**planes)
        check_mask(target_mask, fused, needed=False)
        rounded = [_eight_bit(key, plane) for key, plane in planes.items()]
        try:
            check_side(rounded[0], definition.smallest)
            scores = definition.unchecked(*rounded, **extra, **options)
        except TooSmall:
            return rounded[0].new_full((count,), nan)
        if not isinstance(scores, Tensor) or scores.shape != (count,):
            found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(f"gave {found}; expected one score per image, ({count},)")
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return scores


@cache
def _keep_freed_memory() -> None:
    # glibc returns each freed plane to the system, and the page faults of the next one cost more than
    # the arithmetic (1.5 times the whole). It keeps blocks up to the largest it has seen freed, 32 MiB at
    # most: mallopt(3), M_MMAP_THRESHOLD.
    torch.empty(31 * 2**20, dtype=torch.uint8)


@shared
def _eight_bit(name: str, plane: Tensor) -> Tensor:
    if plane.numel():
        low, high = (float(value) for value in plane.detach().aminmax())
        if isnan(low):
            raise ValueError(f"{name} holds NaN; expected numbers in [0, 1]")
        if low < -ROUNDING or high > 1 + ROUNDING:
            raise ValueError(f"{name} has values from {low:g} to {high:g}; expected [0, 1]")
    return to_levels(plane)
