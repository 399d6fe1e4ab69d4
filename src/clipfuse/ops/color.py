"""The one place where luma and chroma are separated and joined.

Full-range BT.601 as JPEG uses it (ITU-T T.871): Y = 0.299 R + 0.587 G + 0.114 B,
Cb = 0.5 + (B - Y) / 1.772, Cr = 0.5 + (R - Y) / 1.402. The factors are written as what they
are, 2 (1 - 0.114) and 2 (1 - 0.299), so that the way back is the algebraic inverse and not
a second set of rounded constants: colours survive the round trip.
"""

from itertools import product

import torch
from torch import Tensor

from clipfuse.ops.depth import to_levels

RED, GREEN, BLUE = 0.299, 0.587, 0.114
CB_RANGE = 2 * (1 - BLUE)
CR_RANGE = 2 * (1 - RED)
_NEARLY_HALF = 0.49  # levels: whoever rounds the luma of such a colour finds one level, not the next


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
    """Join luma and chroma: the exact inverse of `rgb_to_luma_chroma`, with the luma that is given.

    Where no RGB colour has this luma with this chroma, as where a fused luma is far from that of the colour,
    the chroma is scaled towards gray until one has: luma and hue stay, and the colour pales. Own design; a
    clamp of each channel, which is usual, changes the luma by up to 32 levels of 255 in fused images.

    Args:
        luma: (..., 1, H, W); clamped to [0, 1].
        chroma: Cb and Cr, (..., 2, H, W) in [0, 1].

    Returns:
        RGB (..., 3, H, W) in [0, 1].
    """
    luma, away = luma.clamp(0, 1), _away(chroma)
    room = torch.where(away > 0, 1 - luma, luma)
    scale = (room / away.abs().clamp_min(1e-12)).amin(-3, keepdim=True).clamp_max(1)
    return (luma + scale * away).clamp(0, 1)  # the clamp takes off rounding errors alone


def linear_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    """Join luma and chroma linearly: channels may leave [0, 1], and none is cut or paled.

    For losses: luma and chroma of the result are those that are given, with their gradients.

    Args:
        luma: (..., 1, H, W).
        chroma: Cb and Cr, (..., 2, H, W).

    Returns:
        RGB (..., 3, H, W).
    """
    return luma + _away(chroma)


def _away(chroma: Tensor) -> Tensor:
    """Return by how much red, green and blue differ from the luma."""
    blue_difference, red_difference = (chroma - 0.5).split(1, dim=-3)
    red, blue = CR_RANGE * red_difference, CB_RANGE * blue_difference
    return torch.cat((red, -(RED * red + BLUE * blue) / GREEN, blue), dim=-3)


def eight_bit_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    """Join luma and chroma to the colour image of an 8-bit file that has the luma of a gray file.

    The planes are joined as by `luma_chroma_to_rgb` and each channel is rounded, which moves the luma by half
    a level at most. Where that takes it to another level than the one `luma` is rounded to, as in a gray
    file, some channels go to the next level instead (own design). So at every pixel the luma of the result is
    within half a level of `luma`, and rounded to 8 bits it is `luma` rounded to 8 bits.

    Args:
        luma: (..., 1, H, W); clamped to [0, 1].
        chroma: Cb and Cr, (..., 2, H, W) in [0, 1].

    Returns:
        RGB (..., 3, H, W) of the type of `chroma`, multiples of 1/255 in [0, 1].
    """
    level = to_levels(luma).to(chroma).squeeze(-3)
    exact = luma_chroma_to_rgb(luma.to(chroma), chroma).mul_(255).movedim(-3, 0)
    color = (exact + 0.5).floor_()
    off = (_luma(color) - level).abs() > _NEARLY_HALF
    color[:, off] = _moved(color[:, off], exact[:, off], level[off])
    return color.div_(255).movedim(0, -3).contiguous()


def _moved(color: Tensor, exact: Tensor, level: Tensor) -> Tensor:
    """Return the colours nearest to `exact` among the neighbours of `color` with lumas near to both.

    Args:
        color: RGB, (3, M) whole numbers in 0..255.
        exact: the same before it was rounded.
        level: the luma wanted, (M,), whole numbers.
    """
    wanted, best = _luma(exact), color.clone()
    least = torch.full_like(level, torch.inf)
    for move in product((-1, 0, 1), repeat=3):
        other = color + color.new_tensor(move)[:, None]
        luma, distance = _luma(other), (other - exact).abs().sum(0)
        fits = ((luma - level).abs() <= _NEARLY_HALF) & ((luma - wanted).abs() <= 0.5)
        fits &= (distance < least) & (other.amin(0) >= 0) & (other.amax(0) <= 255)
        best, least = torch.where(fits, other, best), torch.where(fits, distance, least)
    return best


def _luma(color: Tensor) -> Tensor:
    return RED * color[0] + GREEN * color[1] + BLUE * color[2]
