import os
import signal
from collections.abc import Iterator
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

from clipfuse.training.interrupts import StopRequest


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


def alone() -> Any:
    """Return a trainer of one rank."""
    return SimpleNamespace(strategy=SimpleNamespace(reduce_boolean_decision=lambda mine, all: mine))


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SIGTERMException)]
)
def test_a_signal_is_remembered_until_the_run_stops(
    number: int, error: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    stop = StopRequest()
    stop.install()
    assert not stop.requested(alone())
    signal.raise_signal(number)
    assert stop.requested(alone())
    assert ("Ctrl-C again stops at once" in capsys.readouterr().out) == (number == signal.SIGINT)
    with pytest.raises(error):
        stop.raise_stop()
    stop.install()
    assert not stop.requested(alone())


def test_a_rank_without_a_signal_stops_when_another_has_one() -> None:
    asked = []

    def reduce(mine: bool, all: bool) -> bool:
        asked.append((mine, all))
        return True

    stop = StopRequest()
    assert stop.requested(SimpleNamespace(strategy=SimpleNamespace(reduce_boolean_decision=reduce)))  # type: ignore[arg-type]
    assert asked == [(False, False)]
    with pytest.raises(SIGTERMException):
        stop.raise_stop()


def test_a_second_interrupt_does_not_wait() -> None:
    stop = StopRequest()
    stop.install()
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_loader_process_leaves_the_signal_to_its_parent() -> None:
    stop = StopRequest()
    stop.install()
    if (child := os.fork()) == 0:
        signal.raise_signal(signal.SIGINT)
        os._exit(0 if stop.number is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_outside_of_the_main_thread_the_handlers_stay() -> None:
    before = signal.getsignal(signal.SIGINT)
    thread = Thread(target=StopRequest().install)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) == before
