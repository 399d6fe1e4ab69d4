"""Metrics of information theory."""

import math

import torch
from torch import Tensor

from clipfuse.metrics.base import FusionMetric


def entropy(fused: Tensor, infrared: Tensor | None = None, visible: Tensor | None = None) -> Tensor:
    """EN: Shannon entropy of the 256-bin histogram, in bits (Roberts et al., J. Appl. Remote Sens. 2008).

    Args:
        fused: (N, 1, H, W), whole numbers 0..255.
        infrared: not used; every metric takes three images.
        visible: not used.

    Returns:
        (N,) float64 in [0, 8]; higher is better, though noise raises it too.
    """
    images = fused.flatten(1).long()
    offsets = 256 * torch.arange(len(images), device=images.device).unsqueeze(1)
    counts = torch.bincount((images + offsets).flatten(), minlength=256 * len(images)).view(-1, 256)
    share = counts.double() / images.shape[1]
    return torch.special.entr(share).sum(dim=1) / math.log(2)


class Entropy(FusionMetric):
    """Mean EN over images, see `entropy`."""

    higher_is_better = True
    score = staticmethod(entropy)
