"""Reading ahead and writing behind: the order stays, errors arrive, memory is bounded."""

import threading
from typing import Any

import pytest

from clipfuse.data.overlap import Overlap


def carry(items: Overlap[Any]) -> None:
    """Write what is read."""
    with items as overlap:
        for value in overlap:
            overlap.write(value)


def test_everything_is_read_and_written_in_order() -> None:
    written: list[int] = []
    with Overlap(lambda value: value * 10, [(value,) for value in range(20)], written.append) as overlap:
        for value in overlap:
            overlap.write(value + 1)
    assert written == [value * 10 + 1 for value in range(20)]


def test_reading_and_writing_go_on_while_the_network_works() -> None:
    second, go_on = threading.Event(), threading.Event()
    written: list[int] = []

    def read(value: int) -> int:
        if value == 1:
            second.set()
        return value

    def write(value: int) -> None:
        assert go_on.wait(10)
        written.append(value)

    with Overlap(read, [(0,), (1,)], write) as overlap:
        for value in overlap:
            assert second.wait(10)  # the next is read before this one is done
            overlap.write(value)
            assert not written  # and nobody waits for what is being written
        go_on.set()
    assert written == [0, 1]


def test_no_more_than_a_few_are_in_memory() -> None:
    read: list[int] = []
    blocked = threading.Event()

    def write() -> None:
        assert blocked.wait(10)

    with Overlap(read.append, [(value,) for value in range(50)], write) as overlap:
        next(iter(overlap))
        overlap.write()
        overlap.write()
        assert len(read) <= 4
        third = threading.Thread(target=overlap.write)
        third.start()
        third.join(0.2)
        assert third.is_alive()  # three results wait: the network must
        blocked.set()
        third.join(10)
        assert not third.is_alive()


def test_no_thread_is_left_after_an_interruption() -> None:
    before = set(threading.enumerate())

    def write(value: int) -> None:
        if value == 2:  # as if Ctrl-C came while the end waits for the last
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry(Overlap(int, [(0,), (1,), (2,)], write))
    assert set(threading.enumerate()) <= before


def test_a_failed_read_is_raised_at_its_item() -> None:
    seen: list[float] = []
    with pytest.raises(ZeroDivisionError):
        carry(Overlap(lambda value: 1 / value, [(1,), (2,), (0,), (4,)], seen.append))
    assert seen == [1, 0.5]  # what came before it is written


def test_a_failed_write_is_raised_even_at_the_end() -> None:
    def write(value: int) -> None:
        raise OSError(f"disk full at {value}")

    with pytest.raises(OSError, match="disk full at 0"):
        carry(Overlap(int, [(0,)], write))
