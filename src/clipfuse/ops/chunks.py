"""Running an expensive function of many rows with the memory of a few."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

RowFunction = Callable[[Tensor, slice], Tensor]


def in_chunks(function: RowFunction, rows: Tensor, size: int) -> Tensor:
    """Return one number per row, with a graph of no more than `size` rows alive at a time.

    Own design: the gradient with respect to each row is taken while its chunk is in memory, so that nothing
    is computed twice, as checkpointing would. It can be taken once, not differentiated again.

    Args:
        function: (rows[part], part) -> one number per row, which depends on no other row. Other tensors that
            it uses get no gradient.
        rows: (M, ...); M may be 0.
        size: rows per chunk, 1 or more.

    Returns:
        (M,).
    """
    if rows.requires_grad and torch.is_grad_enabled():
        result: Tensor = _Chunks.apply(rows, function, size)
        return result
    parts = [function(rows[part], part) for part in _parts(len(rows), size)]
    return torch.cat(parts) if parts else rows.flatten(1).sum(dim=1)


def _parts(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


class _Chunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, function: RowFunction, size: int) -> Tensor:
        gradient, values = torch.empty_like(rows), []
        for part in _parts(len(rows), size):
            with torch.enable_grad():
                piece = rows[part].detach().requires_grad_()
                value = function(piece, part)
                (gradient[part],) = torch.autograd.grad(value.sum(), piece)
            values.append(value.detach())
        ctx.save_for_backward(gradient)
        return torch.cat(values) if values else rows.new_zeros(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype).reshape(-1, *[1] * (gradient.ndim - 1)), None, None
