"""Reading ahead and writing behind, so that the network need not wait for files."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

Read = TypeVar("Read")
_AHEAD = 2  # pairs in memory on either side of the network


class Overlap(Generic[Read]):
    """Items read by one thread in their order, and results written by another.

    What either raises is raised here: a failed read when its item is asked for, a failed write at one of the
    next writes or at the end. Leaving by an error drops what has not begun and waits for what has.

    Args:
        read: called with the arguments of each item.
        items: the arguments of each.
        write: called with the arguments of `Overlap.write`.
    """

    def __init__(
        self, read: Callable[..., Read], items: Iterable[tuple[Any, ...]], write: Callable[..., None]
    ) -> None:
        self._read, self._items, self._write = read, iter(items), write
        self._reader, self._writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._written: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        """Return itself, to be iterated once."""
        return self

    def __iter__(self) -> Iterator[Read]:
        """Yield what was read, item by item."""
        read: deque[Future[Read]] = deque()
        while True:
            wanted = _AHEAD + 1 - len(read)
            read += [self._reader.submit(self._read, *item) for item in islice(self._items, wanted)]
            if not read:
                return
            yield read.popleft().result()

    def write(self, *arguments: Any) -> None:
        """Have a result written; waits where the writer is behind."""
        self._written.append(self._writer.submit(self._write, *arguments))
        while len(self._written) > _AHEAD:
            self._written.popleft().result()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for both threads."""
        try:
            if kind is None:
                for future in self._written:
                    future.result()
        finally:  # of Ctrl-C, too, nothing may be written after this
            for pool in (self._reader, self._writer):
                pool.shutdown(cancel_futures=True)
