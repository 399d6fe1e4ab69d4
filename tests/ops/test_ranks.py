"""Collectives on one process, and on two: in the order of the data set, and with the gradient of the mean."""

import pytest
import torch
from torch import distributed

from clipfuse.ops.ranks import gather_interleaved, gather_objects, join_ranks, mean_over_ranks, own_part
from clipfuse.testing.ranks import Ranks

VALUES = ([1.0, 2.0, 6.0], [4.0])


def on_a_rank() -> dict[str, object]:
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    values = torch.tensor(VALUES[rank], requires_grad=True)
    number = torch.tensor(len(VALUES[rank]))
    mean = mean_over_ranks(values, number, together=True)
    mean.backward()
    alone = mean_over_ranks(values.detach(), number, together=False)
    mine = torch.full((2, 1), float(rank))
    joined = join_ranks(mine, 1)
    return {
        "objects": gather_objects(rank),
        "items": gather_interleaved([0, 2, 4] if rank == 0 else [1, 3]),
        "mean": mean.item(),
        "alone": alone.item(),
        "gradient": values.grad.tolist(),
        "joined": joined.tolist(),
        "own": own_part(joined, 1).tolist() == mine.tolist(),
        "none": mean_over_ranks(torch.zeros(0), torch.tensor(0), together=True).item(),
    }


def test_alone_a_process_has_its_own_values() -> None:
    found = on_a_rank()
    assert found == {
        "objects": [0],
        "items": [0, 2, 4],
        "mean": 3.0,
        "alone": 3.0,
        "gradient": pytest.approx([1 / 3] * 3),
        "joined": [[0.0], [0.0]],
        "own": True,
        "none": 0.0,
    }


def test_two_ranks_have_one_mean_and_the_order_of_the_data_set(ranks: Ranks) -> None:
    first, second = ranks.run(on_a_rank)
    for found in (first, second):
        assert found["objects"] == [0, 1]
        assert found["items"] == [0, 1, 2, 3, 4]
        assert found["mean"] == 13 / 4
        assert found["joined"] == [[0.0, 1.0]] * 2
        assert found["own"]
        assert found["none"] == 0
    assert (first["alone"], second["alone"]) == (3.0, 4.0)
    # DDP averages over ranks: 1/2 of each is 1/4, the gradient of a mean of four.
    assert first["gradient"] == [0.5] * 3
    assert second["gradient"] == [0.5]
