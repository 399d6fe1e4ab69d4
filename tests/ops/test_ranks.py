"""What ranks exchange; alone, a process has what it gave."""

from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from clipfuse.ops.ranks import gather_interleaved, gather_objects, join_ranks, mean_over_ranks, own_part
from clipfuse.testing.ranks import Ranks

VALUES = ([1.0, 2.0, 6.0], [5.0])


def exchange() -> tuple[list[Any], list[Any], list[float], list[float]]:
    """Run on each rank: rank 0 has three items, rank 1 two."""
    rank = distributed.get_rank()
    items = [f"{rank}{place}" for place in range(3 - rank)]
    joined = join_ranks(torch.tensor([[float(rank)], [10.0 + rank]]), dim=1)
    return (
        gather_objects({"rank": rank}),
        gather_interleaved(items),
        joined.flatten().tolist(),
        (own_part(joined, dim=1).flatten().tolist()),
    )


def mean(together: bool) -> tuple[float, list[float]]:
    values = torch.tensor(VALUES[distributed.get_rank()], requires_grad=True)
    found = mean_over_ranks(values, torch.tensor(len(values)), together)
    found.backward()
    assert values.grad is not None
    return float(found), values.grad.tolist()


def empty() -> float:
    return float(mean_over_ranks(torch.zeros(0), torch.tensor(0), True))


def test_two_ranks_gather_in_order(ranks: Ranks) -> None:
    for rank, (objects, dealt, joined, own) in enumerate(ranks.run(exchange)):
        assert objects == [{"rank": 0}, {"rank": 1}]
        assert dealt == ["00", "10", "01", "11", "02"]
        assert joined == [0, 1, 10, 11]
        assert own == [rank, 10 + rank]


def test_the_mean_is_that_of_all_values_and_so_is_its_gradient(ranks: Ranks) -> None:
    for values, (found, slope) in zip(VALUES, ranks.run(mean, True), strict=True):
        assert found == pytest.approx(14 / 4)
        # DDP averages over the two ranks: half of 2 / 4.
        assert slope == pytest.approx([2 / 4] * len(values))
    alone = ranks.run(mean, False)
    assert [found for found, _ in alone] == pytest.approx([3, 5])
    assert ranks.run(empty) == [0, 0]


def test_a_process_alone_has_what_it_gave() -> None:
    planes = torch.rand(2, 3)
    assert gather_objects("a") == ["a"]
    assert gather_interleaved([1, 2, 3]) == [1, 2, 3]
    assert join_ranks(planes, dim=0) is own_part(planes, dim=0) is planes
    values: Tensor = torch.tensor([1.0, 2.0, 6.0])
    assert float(mean_over_ranks(values, torch.tensor(2), together=True)) == 4.5
