"""LPIPS to both sources as a loss."""

from typing import Literal

import torch

from clipfuse.losses.base import FusionLoss, named_errors
from clipfuse.ops.lpips import SMALLEST, Lpips
from clipfuse.types import LossInputs, LossOutput


class LpipsLoss(FusionLoss):
    """The fused image should look like both sources to a network that was fitted to what people see.

    total = s LPIPS(F, V) + (1 - s) LPIPS(F, I)

    Source: LPIPS of Zhang et al. (CVPR 2018), version 0.1, as `clipfuse.ops.lpips.Lpips` computes it. As a
    loss between the fused image and each source it is in wide use in fusion; s is our own. The metric of that
    name has s = 1/2 and rounds to 8 bits. It is meant as a part of `weighted_sum`: alone, it leaves the mean
    level of the image loosely bound.

    Args:
        weights: file of the weights of VGG16 or AlexNet; None downloads torchvision's.
        network: `vgg16` or `alexnet`; None: the one of the file, `vgg16` without a file.
        visible_share: s, in [0, 1].

    Raises:
        ValueError: an argument out of range; weights that cannot be had, or are of another network.
    """

    def __init__(
        self,
        weights: str | None = None,
        network: Literal["vgg16", "alexnet"] | None = None,
        visible_share: float = 0.5,
    ) -> None:
        super().__init__()
        if not 0 <= visible_share <= 1:
            raise ValueError(f"lpips loss: visible_share is {visible_share}; expected from 0 to 1")
        self.visible_share = visible_share
        with named_errors("lpips loss"):
            self.judge = Lpips(weights, network)

    def setup(self, sample: LossInputs) -> None:
        """Refuse crops that are too small for the network."""
        super().setup(sample)
        height, width = sample.fused.shape[-2:]
        if min(height, width) < SMALLEST:
            raise ValueError(
                f"lpips loss: it needs crops of {SMALLEST} px or more, got {height}x{width}; raise "
                "loader.crop_size"
            )

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Return the weighted mean; `terms` has the distance to each source."""
        with torch.no_grad():
            infrared, visible = self.judge.units(inputs.infrared), self.judge.units(inputs.visible)
        fused = self.judge.units(inputs.fused)
        distances = {
            "infrared": self.judge.between(fused, infrared).mean(),
            "visible": self.judge.between(fused, visible).mean(),
        }
        share = self.visible_share
        total = share * distances["visible"] + (1 - share) * distances["infrared"]
        return LossOutput(
            total.to(inputs.fused.dtype), {name: value.detach() for name, value in distances.items()}
        )
