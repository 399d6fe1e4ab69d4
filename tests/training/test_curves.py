import logging
from statistics import fmean

import pytest
import torch
from torch import Tensor, distributed

from clipfuse.testing.ranks import Ranks
from clipfuse.training.curves import UpdateRows, mean_by_name


def test_means_over_the_micro_batches_that_have_a_value() -> None:
    rows = UpdateRows()
    rows.add(1.0, {"a": 2.0}, "")
    rows.add(3.0, {"b": 5.0, "a": 4.0}, "")
    assert rows.take() == {"train/loss/total": 2.0, "a": 3.0, "b": 5.0}
    assert rows.take() == {}
    rows.add(1.0, {}, "")
    rows.clear()
    assert rows.take() == {}


def test_a_term_that_is_not_finite_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    rows = UpdateRows()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            rows.add(1.0, {"a": float("nan"), "b": 0.0}, "at update 3 on samples x")
    (record,) = caplog.records
    assert record.getMessage() == (
        "a is nan at update 3 on samples x; the total is finite, so the term is only logged"
    )


def test_ranks_average_by_name_whatever_their_order(ranks: Ranks) -> None:
    first, second = ranks.run(_by_name)
    expected = {name: fmean(values) for name, values in {"a": (1.0, 10.0), "b": (2.0, 20.0)}.items()}
    assert first == second == expected
    assert (list(first), list(second)) == (["a", "b"], ["b", "a"])


def _by_name() -> dict[str, float]:
    def mean(values: Tensor) -> Tensor:
        distributed.all_reduce(values)
        return values / distributed.get_world_size()

    row = {"b": 20.0, "a": 10.0} if distributed.get_rank() else {"a": 1.0, "b": 2.0}
    return mean_by_name(row, mean, torch.device("cpu"))
