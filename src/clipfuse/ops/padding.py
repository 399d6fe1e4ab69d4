"""Padding to a multiple and back: how networks with a stride take any image size."""

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column of (N, C, H, W) until `multiple` divides both sides.

    Repeating, unlike reflecting, works for images smaller than the padding.
    """
    height, width = image.shape[-2:]
    # Written so that an exporter recognises the new sides as multiples.
    below, right = ((side + multiple - 1) // multiple * multiple - side for side in (height, width))
    needed = torch.compiler.is_exporting() or below or right  # an exported graph pads every size, by 0 too
    return F.pad(image, (0, right, 0, below), mode="replicate") if needed else image


def crop_to(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut (N, C, H', W') to its top-left `size` = (H, W): undoes `pad_to_multiple`."""
    return image[..., : size[0], : size[1]]
