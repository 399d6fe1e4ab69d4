"""What becomes of a rank whose others have died or do something else: its error, and its end by a signal.

Python runs a handler of a signal between two of its own instructions. A rank in a collective is inside one
until the other ranks come, so that Ctrl-C and SIGTERM would reach nobody if they never do.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from traceback import walk_stack
from typing import NoReturn

from torch import distributed

PATIENCE = 25.0  # seconds for the other ranks to come; schedulers kill 30 s after their SIGTERM
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
_POLL = 0.25  # seconds
_COLLECTIVE = f"{os.sep}torch{os.sep}distributed{os.sep}"
_BACKWARD = f"{os.sep}torch{os.sep}autograd{os.sep}"  # in which DDP exchanges gradients

_LOST = ("gloo/transport", "closed by peer", "reset by peer", "NCCL communicator was aborted")
_watching: list[int] = []


def _leave_signals_to_parent() -> None:
    if _watching:  # those of a loader process, as its terminate(), are no signals to this rank
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_leave_signals_to_parent)


def is_of_a_lost_rank(error: BaseException) -> bool:
    """Return whether a collective raised it because another rank has died or does something else."""
    return isinstance(error, distributed.DistError) or any(text in str(error) for text in _LOST)


@contextmanager
def ended_in_collectives(report: Callable[[str], None], patience: float = PATIENCE) -> Iterator[None]:
    """End this process if it gets a signal and then waits in one and the same collective for `patience`.

    A second signal ends it after a second of waiting. Whoever computes, saves or waits for less long is left
    to the handler of the signal. The exit code is 128 and the number of the signal; nothing is saved.

    Args:
        report: called with one line that names the signal and what was waited for, before the end.
        patience: seconds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    _watching.append(write)
    over = threading.Event()
    arguments = (read, threading.get_ident(), over, report, patience)
    watch = threading.Thread(target=_watch, args=arguments, name="signals in collectives", daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        _watching.remove(write)
        over.set()
        os.close(write)  # ends the reading
        watch.join()
        os.close(read)


def _watch(
    read: int, main: int, over: threading.Event, report: Callable[[str], None], patience: float
) -> None:
    seen: list[int] = []
    while not seen:
        if not (content := os.read(read, 64)):
            return
        seen = [number for number in content if number in _SIGNALS]
    place, since, spent, told = waiting_place(main), time.monotonic(), time.process_time(), False
    while not over.wait(_POLL):
        if select.select([read], [], [], 0)[0]:
            seen += [number for number in os.read(read, 64) if number in _SIGNALS]
        now = waiting_place(main)
        waited = time.monotonic() - since
        busy = now is not None and not now[1] and time.process_time() - spent > 0.1 * waited + _POLL
        if now is None or now != place or busy:
            place, since, spent, told = now, time.monotonic(), time.process_time(), False
            continue
        if waited >= min(patience, 1.0 if len(seen) > 1 else patience):
            _end(seen[0], now[2], waited, report)
        if waited > 2 and not told:
            told = True
            _print(f"waiting for another rank in {now[2]}; a second signal ends this process at once")


def waiting_place(thread: int) -> tuple[tuple[int, int], bool, str] | None:
    """Return where a thread may wait for other ranks, or None.

    Returns:
        The instruction that it is in; whether that is a collective, else it is a backward pass, which may
        also compute; and the function and line of ours that wants it.
    """
    frame = sys._current_frames().get(thread)
    frames = [each for each, _ in walk_stack(frame)]  # innermost first
    files = [each.f_code.co_filename for each in frames]
    collective = any(_COLLECTIVE in file for file in files)
    if not frames or not (collective or _BACKWARD in files[0]):
        return None
    outer = [each for each, file in zip(frames, files, strict=True) if f"{os.sep}torch{os.sep}" not in file]
    ours = [
        each
        for each in outer
        if f"{os.sep}clipfuse{os.sep}" in each.f_code.co_filename
        and not each.f_code.co_filename.endswith(("ops/ranks.py", "contextlib.py"))
    ]
    found = (ours or outer or frames)[0]
    text = f"{found.f_code.co_name} ({Path(found.f_code.co_filename).name}, line {found.f_lineno})"
    return (id(frames[0]), frames[0].f_lasti), collective, text


def _end(number: int, place: str, waited: float, report: Callable[[str], None]) -> NoReturn:
    name = signal.Signals(number).name
    line = (
        f"{name}, after which this rank waited {waited:.0f} s for another one in {place}; "
        "that rank has ended, or does something else; ended without saving, the last checkpoint stays"
    )
    with suppress(Exception):  # a full disk, say: the end matters more
        report(line)
    _print(f"error: {line}")
    os._exit(128 + number)


def _print(line: str) -> None:
    with suppress(OSError):
        os.write(2, f"clipfuse: {line}\n".encode())
