"""Image filters as the fusion literature defines them."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from clipfuse.ops.plain import plain_tensors

_SOBEL_X = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def sobel_fields(image: Tensor) -> Tensor:
    """Return Sobel_x and Sobel_y with an unscaled 3x3 kernel and a border of zeros.

    Args:
        image: (N, 1, H, W), any float type.

    Returns:
        (N, 2, H, W), in [-4, 4] for an image in [0, 1].
    """
    return F.conv2d(image, _sobel_kernels(image.dtype, image.device), padding=1)


@lru_cache(maxsize=16)
def _sobel_kernels(dtype: torch.dtype, device: torch.device) -> Tensor:
    with plain_tensors():
        kernel_x = torch.tensor(_SOBEL_X, dtype=dtype, device=device)
        return torch.stack([kernel_x, kernel_x.T]).unsqueeze(1)


def sobel_magnitude(image: Tensor) -> Tensor:
    """Return |Sobel_x| + |Sobel_y| with an unscaled 3x3 kernel and a border of zeros.

    This is the convention of the losses of SeAFusion, CDDFuse and PromptFusion. kornia's
    `spatial_gradient` repeats the border instead, which changes the outermost pixels.

    Args:
        image: (N, 1, H, W), any float type.

    Returns:
        (N, 1, H, W), in [0, 8] for an image in [0, 1].
    """
    return sobel_fields(image).abs().sum(dim=1, keepdim=True)
