"""The shared network without its contourlet, and with as many parameters: what is the transform worth?"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from clipfuse.backbones.contourlet_autoencoder import ContourletAutoencoder, ContourletUNet


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
