"""Processes that train or score for a command, several at a time."""

import ctypes
import io
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor

from clipfuse.errors import UserError


class Workers:
    """Processes of one thread each, which end with this one.

    Args:
        count: how many.
        lost: what the error is where one of them was killed.
    """

    def __init__(self, count: int, lost: str) -> None:
        self._lost = lost
        # Spawned, as a fork of a process whose libraries have threads may wait for ever.
        self._pool = ProcessPoolExecutor(count, get_context("spawn"), _follow_parent)

    def submit(self, function: Callable[..., Any], arguments: bytes, *more: Any) -> "Future[bytes]":
        """Call a function of a module in one of them, with what `packed` was given and further arguments."""
        return self._pool.submit(_called, function, arguments, *more)

    def result(self, job: "Future[bytes]") -> Any:
        """Return what a job has returned.

        Raises:
            UserError: it did, or its process was killed.
        """
        try:
            return pickle.loads(job.result())
        except BrokenProcessPool:
            raise UserError(self._lost) from None

    def stop(self) -> None:
        """End all processes at once."""
        for process in list((self._pool._processes or {}).values()):
            process.kill()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Let the processes end."""
        self._pool.shutdown()


@contextmanager
def workers(count: int, lost: str) -> Iterator[Workers | None]:
    """Give so many processes; None for one, which is this one. See `Workers`."""
    if count == 1:
        yield None
        return
    made = Workers(count, lost)
    try:
        yield made
    except BaseException:
        made.stop()
        raise
    made.close()


def _called(function: Callable[..., Any], arguments: bytes, *more: Any) -> bytes:
    return packed(function(*pickle.loads(arguments), *more))


class _Pickler(pickle.Pickler):
    """Hands tensors over as arrays.

    Left to torch, each would take a file descriptor and shared memory, of which a container has 64 MB.
    """

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.from_numpy, (value.detach().cpu().contiguous().numpy(),)
        return NotImplemented


def packed(value: Any) -> bytes:
    """Return plain types, records and tensors as bytes for another process."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(value)
    return buffer.getvalue()


def _follow_parent() -> None:
    """Leave Ctrl-C to the process that started this one, and on Linux end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
