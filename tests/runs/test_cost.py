import pytest
import torch

from clipfuse.runs import cost
from clipfuse.runs.cost import Cost


def test_the_part_of_a_resumed_run_counts_its_own_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 102.5])
    monkeypatch.setattr(cost, "monotonic", lambda: next(clock))
    found = Cost(torch.device("cpu")).record(before=4, updates=10, samples=80)
    assert found.pop("peak_memory_mb") > 50  # no process with torch is smaller
    assert found == {"seconds": 2.5, "updates": 6, "samples": 48, "device": "cpu"}


def test_a_run_without_updates_costs_no_samples() -> None:
    found = Cost(torch.device("cpu")).record(before=0, updates=0, samples=0)
    assert (found["updates"], found["samples"]) == (0, 0)


def test_on_a_gpu_its_memory_and_name_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    reset = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 123_456_789)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    device = torch.device("cuda", 0)
    found = Cost(device).record(0, 1, 8)
    assert reset == [device]
    assert (found["peak_memory_mb"], found["device"]) == (123.5, "A GPU")
