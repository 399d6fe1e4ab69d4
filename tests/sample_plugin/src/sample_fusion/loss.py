"""A loss: the mean of the two bands."""

from clipfuse.losses.base import FusionLoss
from clipfuse.types import LossInputs, LossOutput


class SampleLoss(FusionLoss):
    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, inputs: LossInputs) -> LossOutput:
        distance = (inputs.fused - (inputs.infrared + inputs.visible) / 2).abs().mean()
        return LossOutput(self.weight * distance, {"distance": distance.detach()})
