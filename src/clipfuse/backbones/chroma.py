"""The part of a network that learns the chroma of the fused image."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipfuse.ops.padding import crop_to


class ChromaHead(nn.Module):
    """Change the chroma of the visible image by what the network sees in both bands.

    With c the visible chroma and t = tanh(convolutions of c, both sources, the fused luma and the network's
    features): c + t (1 - c) where t > 0, c + t c elsewhere. So the result stays in [0, 1], and the last
    layer, which starts at zero, makes the untrained network keep the chroma exactly. Own design: published
    networks that learn colours return RGB, and have to learn first what is kept here.

    Args:
        dim: channels of the network's features.
        scale: by which factor the sides of the planes are those of the features.
        width: channels of the convolutions.
    """

    def __init__(self, dim: int, scale: int, width: int = 16) -> None:
        super().__init__()
        self.scale = scale
        self.reduce = nn.Conv2d(dim, width, 1)
        self.embed = nn.Conv2d(5, width, 3, padding=1)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.change = nn.Conv2d(width, 2, 3, padding=1)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)  # type: ignore[arg-type]

    def forward(
        self, chroma: Tensor, infrared: Tensor, visible: Tensor, fused: Tensor, features: Tensor
    ) -> Tensor:
        """Return the chroma of the fused image, (N, 2, H, W) in [0, 1].

        Args:
            chroma: of the visible image, (N, 2, H, W) in [0, 1].
            infrared: (N, 1, H, W).
            visible: luma, (N, 1, H, W).
            fused: luma, (N, 1, H, W).
            features: (N, dim, h, w); `scale` times its sides are H, W or more.
        """
        coarse = F.interpolate(self.reduce(features), scale_factor=self.scale, mode="bilinear")
        hidden = self.embed(torch.cat([chroma - 0.5, infrared, visible, fused], dim=1))
        hidden = F.gelu(hidden + crop_to(coarse, (chroma.shape[-2], chroma.shape[-1])))
        change = torch.tanh(self.change(F.gelu(self.mix(hidden))))
        return chroma + change * torch.where(change > 0, 1 - chroma, chroma)
