"""The one place where luma and chroma are separated and joined.

Full-range BT.601 as JPEG uses it (ITU-T T.871): Y = 0.299 R + 0.587 G + 0.114 B,
Cb = 0.5 + (B - Y) / 1.772, Cr = 0.5 + (R - Y) / 1.402. The factors are written as what they
are, 2 (1 - 0.114) and 2 (1 - 0.299), so that the way back is the algebraic inverse and not
a second set of rounded constants: colours survive the round trip.
"""

import torch
from torch import Tensor

RED, GREEN, BLUE = 0.299, 0.587, 0.114
CB_RANGE = 2 * (1 - BLUE)
CR_RANGE = 2 * (1 - RED)


def rgb_to_luma_chroma(image: Tensor) -> tuple[Tensor, Tensor]:
    """Separate an image into luma and chroma.

    Args:
        image: (..., 3, H, W) RGB or (..., 1, H, W) gray, float in [0, 1].

    Returns:
        Luma (..., 1, H, W) and chroma (..., 2, H, W) in the order Cb, Cr, both in [0, 1].
        A gray image is its own luma and has chroma 0.5.

    Raises:
        ValueError: if the image has neither 1 nor 3 channels.
    """
    channels = image.shape[-3] if image.ndim >= 3 else 0
    if channels == 1:
        height, width = image.shape[-2:]
        return image, image.new_full((*image.shape[:-3], 2, height, width), 0.5)
    if channels != 3:
        raise ValueError(f"expected an image (..., 3 or 1, H, W), got shape {tuple(image.shape)}")
    red, green, blue = image.split(1, dim=-3)
    luma = RED * red + GREEN * green + BLUE * blue
    return luma, torch.cat(((blue - luma) / CB_RANGE, (red - luma) / CR_RANGE), dim=-3) + 0.5


def luma_chroma_to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    """Join luma and chroma: the exact inverse of `rgb_to_luma_chroma`, clamped to [0, 1].

    The clamp acts only where the luma was changed so far that no RGB colour has it with this
    chroma, as a fused luma may be; there the result is the nearest value per channel.

    Args:
        luma: (..., 1, H, W) in [0, 1].
        chroma: Cb and Cr, (..., 2, H, W) in [0, 1].

    Returns:
        RGB (..., 3, H, W) in [0, 1].
    """
    blue_difference, red_difference = (chroma - 0.5).split(1, dim=-3)
    red = luma + CR_RANGE * red_difference
    blue = luma + CB_RANGE * blue_difference
    green = (luma - RED * red - BLUE * blue) / GREEN
    return torch.cat((red, green, blue), dim=-3).clamp(0, 1)
