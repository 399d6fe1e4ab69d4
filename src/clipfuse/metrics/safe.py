"""Arithmetic that several metrics share."""

import torch
from torch import Tensor


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole, and 0 where `whole` is not above 0, with finite gradients there too."""
    positive = whole > 0
    return torch.where(positive, part / torch.where(positive, whole, 1), 0)
