"""Metrics of structural similarity."""

import torch
from kornia.metrics import ssim
from torch import Tensor

from clipfuse.metrics.base import FusionMetric


def ssim_sum(fused: Tensor, infrared: Tensor, visible: Tensor) -> Tensor:
    """SSIM: SSIM(F, I) + SSIM(F, V) (Wang et al., TIP 2004), Gaussian window 11, data range 255.

    Args:
        fused: (N, 1, H, W) in 0..255, sides of at least 11 px.
        infrared: the same shape.
        visible: the same shape.

    Returns:
        (N,) in [-2, 2]; higher is better, 2 if all three are equal. Published toolkits use other
        windows and ranges, so their columns must not be compared with this one.

    Raises:
        ValueError: the images are smaller than the window.
    """
    if min(fused.shape[-2:]) < 11:
        raise ValueError(
            f"SSIM needs images of at least 11x11 px, fused is {fused.shape[-2]}x{fused.shape[-1]}"
        )
    # kornia filters by rows, then columns: the value of torchmetrics in a quarter of its time.
    both = torch.stack([ssim(fused, source, 11, max_val=255.0) for source in (infrared, visible)])
    return both.flatten(2).mean(2).sum(0)


class StructuralSimilarity(FusionMetric):
    """Mean SSIM over images, see `ssim_sum`."""

    higher_is_better = True
    score = staticmethod(ssim_sum)
