"""Plain alternatives: the network without its contourlet, and the image it starts from, raised by hand."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipfuse.backbones.contourlet_autoencoder import ContourletAutoencoder, ContourletUNet
from clipfuse.ops.pyramid import collapse_pyramid, laplacian_pyramid
from clipfuse.types import FusionOutput


class PlainAutoencoder(ContourletAutoencoder):
    """`ContourletAutoencoder` whose detail branch gets the plane itself, made smaller, for each subband.

    Every layer is there with its shape; only what the transform tells is missing. Own design.

    Args:
        dim: as there.
        unet_width: as there.
        arguments: all others, as there.
    """

    def __init__(self, dim: int, unet_width: int, **arguments: Any) -> None:
        super().__init__(dim=dim, unet_width=unet_width, **arguments)
        self.detail = _PlainUNet(dim, unet_width)


class _PlainUNet(ContourletUNet):
    def subbands(self, plane: Tensor) -> list[Tensor]:
        """Return the plane at 1/2, 1/4, 1/8 and 1/16 of the sides, repeated 8, 8, 8 and 4 times."""
        counts = {2: 8, 4: 8, 8: 8, 16: 4}
        return [F.avg_pool2d(plane, side).expand(-1, count, -1, -1) for side, count in counts.items()]


class RaisedStart(nn.Module):
    """Add to a fusion half the deviation of the bands' average from its mean, at its largest scales.

    The comparison for a network that adds mostly contrast of large areas; nothing is trained. The scales are
    those above four levels of a Laplacian pyramid; the half ranked best of 0.3, 0.5, 0.7 and 1 on the
    validation scenes. Own design.

    Args:
        start: the fusion, such as an untrained network.
    """

    def __init__(self, start: nn.Module) -> None:
        super().__init__()
        self.start = start

    def forward(self, infrared: Tensor, visible: Tensor) -> FusionOutput:
        """Fuse (N, 1, H, W) bands in [0, 1]."""
        details, base = laplacian_pyramid((infrared + visible) / 2, 4)
        large = collapse_pyramid([torch.zeros_like(detail) for detail in details], base)
        fused = self.start(infrared, visible).fused
        return FusionOutput((fused + (large - large.mean((2, 3), keepdim=True)) / 2).clamp(0, 1))
