"""Means over data of all ranks."""

import torch
from torch import Tensor, distributed


def mean_over_ranks(values: Tensor, number: Tensor, together: bool) -> Tensor:
    """Return the sum of `values` of all ranks over the sum of `number`; 0 where that is 0.

    The gradient is the one whose average over ranks, as DDP takes it, is the gradient of the mean.

    Args:
        values: (M,), of any M on each rank.
        number: scalar, how many values count here.
        together: whether all ranks call this at once; else the mean is this rank's own.
    """
    whole = torch.stack([values.detach().sum(), number.to(values.dtype)])
    world = 1
    if together and distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(whole)
        world = distributed.get_world_size()
    count = whole[1].clamp(min=1)
    mine = values.sum() * world / count
    return mine + (whole[0] / count - mine).detach()
