import pytest
import torch
from torch import Tensor

from clipfuse.ops.sending import reads_freely, send

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_values_stay_what_they_are() -> None:
    values = torch.tensor([0.1, 0.7], dtype=torch.float64)
    assert send(values, CPU) is values
    assert torch.equal(send(values, CPU, torch.float32), values.float())
    assert reads_freely(CPU)
    assert not reads_freely(GPU)


def test_a_gpu_fetches_them_from_page_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    plain = Tensor.to

    def to(values: Tensor, *where: object, **how: object) -> Tensor:
        if where and where[0] == GPU:
            calls.append(("to", how))
            return values
        return plain(values, *where, **how)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(Tensor, "to", to)
    monkeypatch.setattr(Tensor, "pin_memory", lambda values: calls.append("pinned") or values)
    send(torch.zeros(2), GPU, torch.float64)
    assert calls == ["pinned", ("to", {"non_blocking": True})]
