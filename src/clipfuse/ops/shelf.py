"""Memory for many small tensors that are kept while others come and go."""

import math

import torch
from torch import Tensor

_BLOCK = 2**26  # bytes; glibc maps what is above 32 MiB by itself
_ALIGNED = 64


class Shelf:
    """Keeps copies of tensors in large blocks, apart from the heap.

    In the heap each kept tensor splits the free space that a passing one has left, so that the next passing
    one needs new space: 884 decoded pairs of 0.4 MB took three times their size. A block is freed with the
    last tensor in it.
    """

    def __init__(self) -> None:
        self._block = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def keep(self, tensor: Tensor) -> Tensor:
        """Return a contiguous copy of a CPU tensor of any kind."""
        size = tensor.numel() * tensor.element_size()
        start = math.ceil(self._used / _ALIGNED) * _ALIGNED
        if start + size > len(self._block):
            self._block, start = torch.empty(max(_BLOCK, size), dtype=torch.uint8), 0
        self._used = start + size
        kept = self._block[start : start + size].view(tensor.dtype).view(tensor.shape)
        return kept.copy_(tensor)
