"""Scores of single images by several metrics; needs torch alone, where `base` needs torchmetrics."""

from collections.abc import Iterable, Mapping, Sequence
from math import nan

import torch
from torch import Tensor

from clipfuse.metrics.definition import TooSmall
from clipfuse.metrics.protocols import Protocol, protocol_named
from clipfuse.metrics.sharing import shared, sharing
from clipfuse.metrics.table import score_table
from clipfuse.ops.memory import keep_freed_memory

MEMORY = 2**25  # bytes kept for the next planes: the page faults of new ones cost more than the arithmetic


def image_scores(
    protocol: Protocol,
    name: str,
    fused: Tensor,
    infrared: Tensor,
    visible: Tensor,
    target_mask: Tensor | None = None,
) -> Tensor:
    """Return the scores of images by one metric under a protocol, (N,); NaN for those too small for it.

    Args:
        protocol: the protocol.
        name: of the metric.
        fused: (N, 1, H, W) in [0, 1]: luma. Under a protocol with `channels` also RGB, (N, 3, H, W), and the
            result is the mean of the three channels' scores; of a gray image each channel is the image.
        infrared: the same.
        visible: the same.
        target_mask: (N, 1, H, W) bool, True on targets, or None.

    Raises:
        ValueError: a tensor that the metric cannot take; names both and what was expected.
    """
    images = {"fused": fused, "infrared": infrared, "visible": visible}
    count = max(image.shape[1] for image in images.values() if image.ndim == 4) if protocol.channels else 1
    if count == 3:
        images = {word: _each_channel(image) for word, image in images.items()}
        target_mask = None if target_mask is None else target_mask.repeat_interleave(3, 0)
    try:
        scores = protocol.definition(name).compute(
            images, protocol.options.get(name, {}), target_mask=target_mask
        )
        return scores.unflatten(0, (-1, count)).mean(1)
    except TooSmall:
        return fused.new_full((len(fused),), nan, dtype=torch.float64)


@shared
def _each_channel(image: Tensor) -> Tensor:
    """Return (N, 1 or 3, H, W) as (3 N, 1, H, W), the channels of an image beside each other."""
    if image.ndim != 4 or image.shape[1] not in (1, 3):
        return image  # what is wrong with it is found by the checks of the metric
    return image.expand(-1, 3, -1, -1).flatten(0, 1)[:, None]


class Scorer:
    """Metrics under one protocol; every number they give is reported with its name and version.

    Args:
        protocol: a protocol or its name.
        names: names of metrics and of the sets "fast" and "full".

    Attributes:
        protocol: the protocol.
        names: the names of the metrics, in the order of the tables.

    Raises:
        ValueError: an unknown protocol, or a metric or option that it does not have.
    """

    def __init__(self, protocol: str | Protocol = "strict", names: str | Iterable[str] = "full") -> None:
        keep_freed_memory(MEMORY)
        self.protocol = protocol_named(protocol)
        self.names = self.protocol.choose([names] if isinstance(names, str) else names)
        for name in self.names:
            self.protocol.definition(name).check_options(self.protocol.options.get(name, {}))

    def score_all(
        self,
        fused: Mapping[str, Tensor],
        infrared: Tensor,
        visible: Tensor,
        target_mask: Tensor | None = None,
    ) -> dict[str, dict[str, float]]:
        """Score several fusions of one pair; what the metrics need of its sources is computed once.

        Args:
            fused: method -> luma, (N, 1, H, W) floating point in [0, 1]; rounded to 8 bits first. Under a
                protocol with `channels` also RGB, (N, 3, H, W).
            infrared: the same.
            visible: the same.
            target_mask: (N, 1, H, W) bool, True on targets; without it metrics that need one are left out.

        Returns:
            {method: {metric: score}}, means over N; NaN where the metric is not defined.

        Raises:
            ValueError: a tensor that a metric cannot take; names both and what was expected.
        """
        sources = [plane for plane in (infrared, visible, target_mask) if plane is not None]
        scores: dict[str, dict[str, float]] = {}
        with torch.no_grad(), sharing() as memo:
            for method, plane in fused.items():
                row = scores[method] = {}
                for name in self.names:
                    definition = self.protocol.definition(name)
                    if target_mask is None and definition.needs_mask:
                        continue
                    values = image_scores(self.protocol, name, plane, infrared, visible, target_mask)
                    finite = values.isfinite()
                    row[name] = float(torch.where(finite, values, 0).sum() / finite.sum())
                memo.retain(*sources)
        return scores

    def table(self, rows: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
        """Return the scores per image, {method: {metric: scores}}, as a table of text; see `score_table`."""
        return score_table(self.protocol, rows)
