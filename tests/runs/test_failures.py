import errno

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import distributed

from clipfuse.errors import UserError
from clipfuse.runs.failures import failures_explained

CONFIG = {"loss": {"clip_batch": 32}, "loader": {"batch_size": 8}}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. If reserved"), r"batch_size \(now 8\); .*memory\.\)"),
        (MemoryError(), r"lower loss\.clip_batch \(now 32\), loader\.batch_size .*\(MemoryError\)"),
        (RuntimeError("DefaultCPUAllocator: you tried to allocate 9 bytes"), "^out of memory: lower"),
        (RuntimeError("set find_unused_parameters=True"), r"trainer\.strategy\.find_unused_parameters=true"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible"),
            r"^the loader's processes failed \(DataLoader worker \(pid 7\) is killed by signal: Bus error\): "
            ".*lower loader.workers",
        ),
        (
            RuntimeError("[gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer."),
            r"^another process of this run has ended, .* \(\[gloo/transport/tcp/pair.cc:545\] Read error",
        ),
        (distributed.DistBackendError("NCCL error"), "^another process of this run has ended"),
        (MisconfigurationException("no\n such  strategy"), "^trainer: no such strategy$"),
    ],
)
def test_a_known_failure_names_its_remedy(error: Exception, message: str) -> None:
    with pytest.raises(UserError, match=message), failures_explained(CONFIG):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("a defect"), UserError("a mistake"), KeyError("a")])
def test_any_other_failure_stays(error: Exception) -> None:
    with pytest.raises(type(error)) as found, failures_explained(CONFIG):
        raise error
    assert found.value is error


def test_a_full_shared_memory_is_named_whatever_fails_after_it() -> None:
    with pytest.raises(UserError, match=r"\[Errno 28\] No space left on device"), failures_explained(CONFIG):
        _fail_twice()


def _fail_twice() -> None:
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    finally:
        raise RuntimeError("Please call `iter(combined_loader)` first.")


def test_a_stopped_run_ends_as_its_signal_says() -> None:
    with pytest.raises(SystemExit) as stop, failures_explained(CONFIG):
        raise SIGTERMException
    assert stop.value.code == 143
    with pytest.raises(KeyboardInterrupt), failures_explained(CONFIG):
        _end_as_lightning_does()
    with pytest.raises(SystemExit) as stop, failures_explained(CONFIG):
        raise SystemExit(3)
    assert stop.value.code == 3


def _end_as_lightning_does() -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise SystemExit(1)  # noqa: B904
