"""Going over large images in strips of rows: what lies between two steps stays in the processor's cache."""

from collections.abc import Iterator

import torch
from torch import Tensor

_BYTES = 2 * 2**20  # of the widest features of a strip
_FEWEST = 16  # rows of a strip: each computes two of its neighbours' again


def may_split(images: Tensor) -> bool:
    """Return whether nothing but the result is needed: on a CPU, without gradient, tracing and autocast.

    Then large images are best computed in parts. A gradient would need all of them again, a GPU fills itself
    with whole images, and a tracer wants one graph for all sizes.
    """
    return (
        images.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


def strip_rows(images: Tensor, channels: int) -> int:
    """Return how many rows of (N, C, H, W) a strip should have.

    Args:
        images: what a function of each row and its two neighbours is computed of.
        channels: of the widest features on the way.

    Returns:
        The rows; 0 if the images are to be computed at once: see `may_split`, or they are small.
    """
    if not may_split(images):
        return 0
    row = channels * images.shape[-1] * images.element_size()
    whole = len(images) * images.shape[-2] * row
    return max(_FEWEST, _BYTES // row) if whole > 2 * _BYTES else 0


def strips(height: int, rows: int) -> Iterator[tuple[slice, slice, slice]]:
    """Yield the rows of each strip, the same with their neighbours, and where in these they are.

    A 3x3 convolution of the rows with their neighbours is right in the rows, with zeros beyond the image.
    """
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first = max(top - 1, 0)
        yield slice(top, bottom), slice(first, min(bottom + 1, height)), slice(top - first, bottom - first)
