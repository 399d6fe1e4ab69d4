"""What `balanced-1` misses, as a loss: how far a network can go by the measure that others are ranked by."""

import torch
import torch.nn.functional as F
from torch import Tensor

import clipfuse.metrics.balanced  # noqa: F401  # defines the metrics that are looked up below
from clipfuse.losses.base import FusionLoss, require
from clipfuse.metrics.definition import DEFINITIONS
from clipfuse.ops.pyramid import base_weight
from clipfuse.types import LossInputs, LossOutput

_METRICS = {
    "information": "kept-information",
    "structure": "kept-structure",
    "detail": "local-detail",
    "artifacts": "clean-detail",
}
_CELL = 32  # pixels; of what is larger the brightness is compared


class BalancedLoss(FusionLoss):
    """One minus the mean of the metrics of `balanced-1` that need no masks, plus a wrong brightness.

    total = 1 - mean(kept-information, kept-structure, local-detail, clean-detail)
          + w (mean|A(F) - A(B)| + |mean F - mean B|)

    The metrics are those of `clipfuse.metrics.balanced`, without their rounding to 8 bits, of each image; one
    that is not defined for an image, as both bands are flat, counts as kept. They compare details, and hardly
    see how bright an image is: B is the brightness that is wanted, the average of both bands, by day the
    brighter one, and where hot the infrared one (`base_weight`), and A are means of 32x32 pixels.

    Own design. It shows what the metrics themselves want. In a comparison that ranks by `balanced-1` it is
    no competitor but an upper mark: it descends what the others are judged by.

    Args:
        brightness_weight: w, 0 or more.

    Raises:
        ValueError: the weight is out of its range.
    """

    def __init__(self, brightness_weight: float = 1.0) -> None:
        super().__init__()
        require("balanced", 0, brightness_weight=brightness_weight)
        self.brightness_weight = brightness_weight

    def setup(self, sample: LossInputs) -> None:
        """Refuse crops that are smaller than the windows of the metrics."""
        height, width = sample.fused.shape[-2:]
        least = max(DEFINITIONS[name].smallest for name in _METRICS.values())
        if min(height, width) < least:
            raise ValueError(
                f"balanced loss: crops of {height}x{width}; its windows need {least} px or more; raise "
                "loader.crop_size"
            )

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Return the sum; `terms` has what each metric misses, and the wrong brightness."""
        with torch.autocast(inputs.fused.device.type, enabled=False):
            images = [_full(image) for image in (inputs.fused, inputs.infrared, inputs.visible)]
            planes = [255 * image.clamp(0, 1) for image in images]
            missed = {name: 1 - _kept(metric, *planes) for name, metric in _METRICS.items()}
            total = torch.stack([*missed.values()]).mean()
            if self.brightness_weight:
                missed["brightness"] = _wrong_brightness(*images)
                total = total + self.brightness_weight * missed["brightness"]
        return LossOutput(total, {name: term.detach() for name, term in missed.items()})


def _full(image: Tensor) -> Tensor:
    return image if image.dtype == torch.float64 else image.float()


def _kept(metric: str, fused: Tensor, infrared: Tensor, visible: Tensor) -> Tensor:
    scores = DEFINITIONS[metric].kernel(fused, infrared, visible)
    return torch.where(scores.isfinite(), scores, 1).mean()


def _wrong_brightness(fused: Tensor, infrared: Tensor, visible: Tensor) -> Tensor:
    ours, thermal, color = (
        F.avg_pool2d(image, _CELL, ceil_mode=True, count_include_pad=False)
        for image in (fused, infrared, visible)
    )
    wanted = color + base_weight(thermal, color) * (thermal - color)
    means = (ours - wanted).mean((1, 2, 3)).abs().mean()
    return (ours - wanted).abs().mean() + means
