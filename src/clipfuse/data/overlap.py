"""Reads files ahead and writes results in the background, so that the network does not wait for either."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

Read = TypeVar("Read")
_AHEAD = 2  # items read ahead, and results not yet written


class Overlap(Generic[Read]):
    """A context: one thread reads items in their order, another one writes results.

    Errors of both threads are raised in the calling thread: that of a read when its item is reached, that of
    a write at one of the next writes or at the end. If the block is left by an error, reads that have not
    begun are dropped; what was handed over is written.

    Args:
        read: called in the reading thread with the arguments of each item.
        items: the arguments of each item.
        write: called in the writing thread with the arguments given to `Overlap.write`.
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
        """Yield what `read` returned, item by item."""
        read: deque[Future[Read]] = deque()
        while True:
            wanted = _AHEAD + 1 - len(read)
            read += [self._reader.submit(self._read, *item) for item in islice(self._items, wanted)]
            if not read:
                return
            yield read.popleft().result()

    def write(self, *arguments: Any) -> None:
        """Write a result in the background; waits while two results are not yet written."""
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
        finally:  # also after Ctrl-C nothing may be written once the block is left
            self._reader.shutdown(cancel_futures=True)
            self._writer.shutdown()  # what was handed over is finished
