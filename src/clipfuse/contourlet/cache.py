"""A bounded cache of what depends on size, type and device alone."""

from collections import OrderedDict
from collections.abc import Callable
from threading import RLock
from typing import Generic, TypeVar

import torch

from clipfuse.contourlet.filters import FilterBank
from clipfuse.ops.plain import plain_tensors

Key = tuple[tuple[int, ...], FilterBank, tuple[int, int], str, torch.dtype, torch.device]
"""Levels, filters, (H, W), kind of matrices, real type, device."""

Entry = TypeVar("Entry")


class SpectraCache(Generic[Entry]):
    """Keeps the results of `build`; the least recently used are dropped while all exceed `limit` bytes.

    Args:
        build: makes the entry of a key.
        measure: bytes of an entry.
        limit: bytes to keep; the latest entry stays whatever its size.
    """

    def __init__(
        self, build: Callable[[Key], Entry], measure: Callable[[Entry], int], limit: int = 512 * 2**20
    ) -> None:
        self.build = build
        self.measure = measure
        self.limit = limit
        self.entries: OrderedDict[Key, Entry] = OrderedDict()
        self.lock = RLock()  # an entry may be built from another

    def get(self, key: Key) -> Entry:
        """The entry of `key`, built at its first use."""
        with self.lock:
            if key not in self.entries:
                with plain_tensors():
                    self.entries[key] = self.build(key)
                while len(self.entries) > 1 and self.bytes() > self.limit:
                    self.entries.popitem(last=False)
            self.entries.move_to_end(key)
            return self.entries[key]

    def bytes(self) -> int:
        """Memory of all entries."""
        return sum(self.measure(entry) for entry in self.entries.values())
