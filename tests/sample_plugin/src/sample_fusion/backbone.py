"""A backbone: two convolutions."""

import torch
from torch import Tensor, nn

from clipfuse.types import FusionOutput


class SampleBackbone(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, 1, 3, padding=1), nn.Sigmoid()
        )

    def forward(self, infrared: Tensor, visible: Tensor) -> FusionOutput:
        return FusionOutput(self.body(torch.cat([infrared, visible], dim=1)))
