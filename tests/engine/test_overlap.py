"""Reading ahead and writing behind: the order stays, errors arrive, memory is bounded."""

import threading
from typing import Any

import pytest

from clipfuse.engine.overlap import Overlap


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
    second, first = threading.Event(), threading.Event()

    def read(value: int) -> int:
        if value == 1:
            second.set()
        return value

    with Overlap(read, [(0,), (1,)], lambda value: first.set()) as overlap:
        for value in overlap:
            if value == 0:
                assert second.wait(10)  # the next is read before this one is done
            else:
                assert first.wait(10)  # the last is written before this one is done
            overlap.write(value)


def test_no_more_than_a_few_are_in_memory() -> None:
    read: list[int] = []
    blocked = threading.Event()
    with Overlap(read.append, [(value,) for value in range(50)], lambda: blocked.wait(10)) as overlap:
        values = iter(overlap)
        next(values)
        overlap.write()
        overlap.write()
        assert len(read) <= 4
        blocked.set()


def test_a_failed_read_is_raised_at_its_item() -> None:
    seen: list[float] = []
    with pytest.raises(ZeroDivisionError):
        carry(Overlap(lambda value: 1 / value, [(1,), (2,), (0,), (4,)], seen.append))
    assert seen == [1, 0.5][: len(seen)]


def test_a_failed_write_is_raised_even_at_the_end() -> None:
    def write(value: int) -> None:
        raise OSError(f"disk full at {value}")

    with pytest.raises(OSError, match="disk full at 0"):
        carry(Overlap(int, [(0,)], write))
