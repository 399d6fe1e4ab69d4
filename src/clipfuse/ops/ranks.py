"""Collectives that work without torch.distributed, too: there one process is all ranks."""

from itertools import chain, zip_longest
from typing import TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def gather_objects(mine: T) -> list[T]:
    """Return the objects of all ranks, in the order of ranks; they must be picklable."""
    if not _together():
        return [mine]
    found: list[T | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, mine)
    return [each for each in found if each is not None]


def gather_interleaved(mine: list[T]) -> list[T]:
    """Return the items of all ranks in the order of the data set, whose sample i is on rank i % ranks."""
    rounds = zip_longest(*gather_objects(mine))
    return [item for item in chain.from_iterable(rounds) if item is not None]


def join_ranks(mine: Tensor, dim: int) -> Tensor:
    """Return the tensors of all ranks, which must have one shape, side by side along `dim`."""
    if not _together():
        return mine
    found = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
    distributed.all_gather(found, mine.contiguous())
    return torch.cat(found, dim)


def own_part(joined: Tensor, dim: int) -> Tensor:
    """Return the part of this rank in the result of `join_ranks`."""
    if not _together():
        return joined
    return joined.chunk(distributed.get_world_size(), dim)[distributed.get_rank()]


def sum_over_ranks(mine: Tensor) -> Tensor:
    """Return the sum of the tensors of all ranks, which must have one shape, without gradient."""
    total = mine.detach().clone()
    if _together():
        distributed.all_reduce(total)
    return total


def mean_over_ranks(values: Tensor, number: Tensor, together: bool) -> Tensor:
    """Return the sum of `values` of all ranks over the sum of `number`; 0 where that is 0.

    The gradient is the one whose average over ranks, as DDP takes it, is the gradient of the mean.

    Args:
        values: (M,); M may differ between ranks.
        number: scalar, how many values of this rank count.
        together: whether all ranks call this at once; else the mean is this rank's own.
    """
    whole = torch.stack([values.detach().sum(), number.to(values.dtype)])
    world = 1
    if together and _together():
        distributed.all_reduce(whole)
        world = distributed.get_world_size()
    count = whole[1].clamp(min=1)
    mine = values.sum() * world / count
    return mine + (whole[0] / count - mine).detach()
