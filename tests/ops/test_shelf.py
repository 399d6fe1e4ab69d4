"""Kept tensors are copies of their own."""

import pytest
import torch

from clipfuse.ops import shelf
from clipfuse.ops.shelf import Shelf


def test_what_is_kept_is_equal_whatever_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "_BLOCK", 300)  # several blocks, and one tensor that is larger
    made = Shelf()
    given = [
        torch.arange(7, dtype=torch.uint8),
        torch.rand(3, 5).T,
        torch.tensor([[True, False]]),
        torch.arange(90, dtype=torch.float64),
        torch.empty(0, 4),
        torch.tensor(3),
        *(torch.full((40,), k, dtype=torch.uint8) for k in range(20)),
    ]
    kept = [made.keep(each) for each in given]
    for before, after in zip(given, kept, strict=True):
        assert after.dtype == before.dtype
        assert torch.equal(after, before)
        assert after.is_contiguous()
    kept[0].fill_(9)
    assert given[0].tolist() == list(range(7))
    assert all(torch.equal(before, after) for before, after in zip(given[1:], kept[1:], strict=True))
