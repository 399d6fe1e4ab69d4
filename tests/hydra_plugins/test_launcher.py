"""Which devices a job sees."""

import pytest

from clipfuse.errors import UserError
from hydra_plugins.clipfuse_launcher.launcher import _slots


@pytest.mark.parametrize(
    ("visible", "parallel", "gpus", "expected"),
    [
        (None, 2, 0, [None, None]),
        ("4,5", 3, 0, [None, None, None]),
        ("4, 5,6,", 3, 1, ["4", "5", "6"]),
        ("4,5,6", 1, 2, ["4,5"]),
        (None, 2, 2, ["0,1", "2,3"]),
    ],
)
def test_devices_are_dealt_out_to_the_slots(
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    parallel: int,
    gpus: int,
    expected: list[str | None],
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert _slots(parallel, gpus) == expected


def test_too_few_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(UserError, match=r"need 2 GPUs; there are 1 on this machine"):
        _slots(1, 2)
