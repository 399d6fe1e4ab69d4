"""A small convolutional network for tests and first trainings."""

import torch
from torch import Tensor, nn

from clipfuse.backbones.base import FusionBackbone
from clipfuse.ops.black import keep_black
from clipfuse.types import FusionOutput


class ConvTiny(FusionBackbone):
    """Residual convolutions at half resolution, sub-pixel output, started at the maximum.

    fused = sigmoid(logit(max(I, V)) + network): the output stays in (0, 1) with a gradient everywhere,
    and the zero-initialised last layer makes the untrained network the maximum, a good start for most fusion
    losses; from the mean, the pixel loss changes little but the sky in its first thousands of updates. In
    eval mode black is kept (`keep_black`). Own design, for tests and first trainings on two CPU cores.

    Args:
        width: channels at half resolution, 1 or more.
        depth: residual blocks, 0 or more; dilations 1, 2, 4 repeat so that three blocks see 33 pixels.
        chroma: also learn the chroma of the fused image (`ChromaHead`).

    Raises:
        ValueError: width or depth is too small.
    """

    size_multiple = 2

    def __init__(self, width: int = 32, depth: int = 3, chroma: bool = False) -> None:
        super().__init__()
        if width < 1 or depth < 0:
            raise ValueError(
                f"conv_tiny: width {width} and depth {depth}; expected width >= 1 and depth >= 0"
            )
        self.embed = nn.Sequential(nn.Conv2d(8, width, 3, padding=1), nn.GELU())
        self.blocks = nn.ModuleList(_Residual(width, dilation=2 ** (index % 3)) for index in range(depth))
        self.project = nn.Conv2d(width, 4, 3, padding=1)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]
        if chroma:
            self.learn_chroma(width, scale=2)

    def fuse(self, infrared: Tensor, visible: Tensor) -> FusionOutput:
        """Fuse planes of even sides; the feature `fused` is (N, width, H/2, W/2)."""
        features = self.embed(nn.functional.pixel_unshuffle(torch.cat([infrared, visible], dim=1), 2))
        for block in self.blocks:
            features = block(features)
        change = nn.functional.pixel_shuffle(self.project(features), 2)
        brighter = infrared.maximum(visible).clamp(0.01, 0.99)
        fused = torch.sigmoid(torch.logit(brighter) + change)
        if not self.training:
            fused = keep_black(fused, infrared, visible)
        return FusionOutput(fused, {"fused": features})


class _Residual(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, padding_mode="replicate"),
            nn.GELU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return the features plus a correction, (N, width, h, w)."""
        return features + self.body(features)
