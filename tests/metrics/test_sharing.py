import torch
from torch import Tensor

from clipfuse.metrics.sharing import shared, sharing

calls: list[float] = []


@shared
def double(plane: Tensor, *, times: int = 2) -> Tensor:
    calls.append(plane.sum().item())
    return plane * times


def test_a_step_is_computed_once_per_arguments() -> None:
    calls.clear()
    one, two = torch.ones(2), torch.ones(2)
    with sharing():
        first = double(one)
        assert double(one) is first
        assert double(two) is not first
        assert double(one, times=3).sum() == 6
        with sharing():
            assert double(one) is first
        assert double(one) is first
    assert len(calls) == 3
    assert double(one) is not double(one)


def test_retain_forgets_what_does_not_come_from_the_given_tensors_alone() -> None:
    calls.clear()
    source, fused = torch.ones(2), torch.zeros(2)
    with sharing() as memo:
        kept = double(double(source))
        double(double(fused))
        memo.retain(source)
        assert double(double(source)) is kept
        assert len(calls) == 4
        double(double(fused))
        assert len(calls) == 6
