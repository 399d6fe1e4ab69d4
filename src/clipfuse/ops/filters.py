"""Image filters as the fusion literature defines them."""

import torch
import torch.nn.functional as F
from torch import Tensor

_SOBEL_X = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def sobel_fields(image: Tensor) -> Tensor:
    """Return Sobel_x and Sobel_y with an unscaled 3x3 kernel and a border of zeros.

    Args:
        image: (N, 1, H, W), any float type.

    Returns:
        (N, 2, H, W), in [-4, 4] for an image in [0, 1].
    """
    kernel_x = torch.tensor(_SOBEL_X, dtype=image.dtype, device=image.device)
    kernels = torch.stack([kernel_x, kernel_x.T]).unsqueeze(1)
    return F.conv2d(image, kernels, padding=1)


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
