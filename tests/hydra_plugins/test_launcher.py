import pytest
import torch

from clipfuse.errors import UserError
from hydra_plugins.clipfuse_launcher.launcher import _slots


def test_devices_are_shared_out_by_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 5,6,GPU-7,8,")
    assert _slots(2, 2) == ["4,5", "6,GPU-7"]
    assert _slots(3, 0) == [None, None, None]
    with pytest.raises(UserError, match="need 6 GPUs; there are 5 in CUDA_VISIBLE_DEVICES="):
        _slots(3, 2)


def test_without_a_list_all_devices_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert _slots(2, 1) == ["0", "1"]
    with pytest.raises(UserError, match="need 4 GPUs; there are 2 on this machine"):
        _slots(2, 2)
