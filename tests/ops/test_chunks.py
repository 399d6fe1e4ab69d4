from weakref import WeakSet

import pytest
import torch
from torch import Tensor

from clipfuse.ops.chunks import in_chunks

ROWS = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
WEIGHTS = torch.arange(1.0, 8.0, dtype=torch.float64)


def judge(rows: Tensor, part: slice) -> Tensor:
    return (rows**3).sum(dim=1) * WEIGHTS[part]


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_values_and_gradients_are_those_of_one_pass(size: int) -> None:
    upstream = torch.linspace(-1, 1, 7, dtype=torch.float64)
    rows = ROWS.clone().requires_grad_()
    (expected,) = torch.autograd.grad(judge(rows * 2, slice(0, 7)) @ upstream, rows)
    values = in_chunks(judge, rows * 2, size)
    torch.testing.assert_close(values, judge(2 * ROWS, slice(0, 7)))
    (gradient,) = torch.autograd.grad(values @ upstream, rows)
    torch.testing.assert_close(gradient, expected)


class _Saved:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def test_holds_the_graph_of_one_chunk() -> None:
    saved: WeakSet[_Saved] = WeakSet()
    counts = []

    def pack(tensor: Tensor) -> _Saved:
        saved.add(kept := _Saved(tensor))
        return kept

    def watched(rows: Tensor, part: slice) -> Tensor:
        counts.append(len(saved))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
            return rows.exp().sum(dim=1)

    values = in_chunks(watched, ROWS.clone().requires_grad_(), 2)
    assert counts == [0, 0, 0, 0]
    assert len(saved) == 0
    assert values.requires_grad


def test_no_rows() -> None:
    rows = torch.zeros(0, 3, requires_grad=True)
    values = in_chunks(judge, rows, 4)
    assert values.shape == (0,)
    values.sum().backward()
    assert rows.grad is not None
    assert in_chunks(judge, rows.detach(), 4).shape == (0,)


def test_without_gradient_there_is_none() -> None:
    with torch.no_grad():
        assert not in_chunks(judge, ROWS.clone().requires_grad_(), 2).requires_grad
    assert not in_chunks(judge, ROWS, 2).requires_grad


def test_cannot_be_differentiated_twice() -> None:
    rows = ROWS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(in_chunks(judge, rows, 2).square().sum(), rows, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
