"""Black stays black."""

import torch
from torch import Tensor

REACH, MOST = 2 / 255, 4 / 255


def keep_black(fused: Tensor, infrared: Tensor, visible: Tensor) -> Tensor:
    """Take from a fused image what a sigmoid leaves above black where both sources are black.

    A sigmoid never reaches 0: networks that end in one make 2 or 3 levels of 255 of black. Where the brighter
    source is below 2 levels, the fused image loses up to 4, though it never falls below 0: all of them at
    black, a quarter at 1 level. So no pixel but a black one loses more than a level. Own design.

    Args:
        fused: (N, 1, H, W) in [0, 1].
        infrared: the same.
        visible: the same.

    Returns:
        (N, 1, H, W) in [0, 1].
    """
    dark = 1 - torch.maximum(infrared, visible).div(REACH).clamp(0, 1)
    return fused - fused.clamp(max=MOST) * dark.square()
