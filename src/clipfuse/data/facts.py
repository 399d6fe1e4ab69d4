"""Digests and thumbnails of files, kept in a cache between trainings."""

import hashlib
import os
import sqlite3
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import compress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from clipfuse.data.checks import Head, color_spread, header_of, read_colors, read_mask
from clipfuse.errors import UserError
from clipfuse.files import open_regular
from clipfuse.images import read_thumbnail

SIDE = 32
MOST_COLORS = 300  # more than a palette can have
_RACY = 2_000_000_000  # ns: a file changed this recently may change again under the same time stamp
_LEVELS = (-1, *range(257), 65535)  # 256 stands for all up to 65534
_TABLE = (
    "CREATE TABLE IF NOT EXISTS facts (path TEXT, kind TEXT, size INTEGER, time INTEGER, value BLOB, "
    "PRIMARY KEY (path, kind))"
)


def cache_file() -> Path:
    """Return the SQLite file of the cache; it may be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipfuse" / "files.sqlite"


def digests(paths: Sequence[Path]) -> list[str]:
    """Return the BLAKE2b (128 bit, hex) of the bytes of each file.

    Raises:
        UserError: a file cannot be read.
    """
    return [value.hex() for value in _facts(paths, "blake2b-128", _digest, "hashing the data set")]


def thumbnails(paths: Sequence[Path]) -> list[np.ndarray]:
    """Return the luma of each image, (32, 32) uint8, averaged over areas and stretched to its own range.

    Raises:
        UserError: as `read_thumbnail`.
    """
    values = _facts(paths, f"thumbnail-{SIDE}", _thumbnail, "looking for scenes")
    return [np.frombuffer(value, np.uint8).reshape(SIDE, SIDE) for value in values]


def headers(paths: Sequence[Path]) -> list[Head | UserError]:
    """Return the `header_of` each image."""
    errors: dict[Path, UserError] = {}

    def find(path: Path) -> bytes:
        head = header_of(path)
        if isinstance(head, UserError):
            errors[path] = head
            return b""
        return struct.pack("<3I", *head)

    values = _facts(paths, "header", find, "checking the images")
    stated = zip(paths, values, strict=True)
    return [errors.get(path) or struct.unpack("<3I", value) for path, value in stated]


def color_spreads(paths: Sequence[Path]) -> list[float]:
    """Return the `color_spread` of each image.

    Raises:
        UserError: as `color_spread`.
    """
    values = _facts(paths, "color", lambda path: struct.pack("<d", color_spread(path)), "looking at colours")
    return [struct.unpack("<d", value)[0] for value in values]


def mask_levels(paths: Sequence[Path]) -> list[frozenset[int]]:
    """Return the values in each mask; of one in colour, or of floating point, -1 alone.

    Raises:
        UserError: as `read_mask`.
    """
    values = _facts(paths, "levels-2", _levels, "looking at masks")
    return [frozenset(compress(_LEVELS, value)) for value in values]


def image_colors(paths: Sequence[Path]) -> list[frozenset[int]]:
    """Return the colours in each image, red * 65536 + green * 256 + blue; of very many the first 300.

    Raises:
        UserError: as `read_colors`.
    """
    values = _facts(paths, "colors", _colors, "looking at maps of classes")
    return [frozenset(np.frombuffer(value, "<i4").tolist()) for value in values]


def _colors(path: Path) -> bytes:
    return np.unique(read_colors(path))[:MOST_COLORS].astype("<i4").tobytes()


def _levels(path: Path) -> bytes:
    mask = read_mask(path)
    plain = not mask.is_floating_point() and bool((mask == mask[:1]).all())
    found = {int(level) for level in np.unique(mask[0].numpy())} if plain else {-1}
    found |= {256} if any(255 < level < 65535 for level in found) else set()
    return bytes(level in found for level in _LEVELS)


def _digest(path: Path) -> bytes:
    with open_regular(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


def _thumbnail(path: Path) -> bytes:
    return read_thumbnail(path, SIDE).tobytes()


def _facts(paths: Sequence[Path], kind: str, find: Callable[[Path], bytes], doing: str) -> list[bytes]:
    """Return `find` of each file; from the cache if the file still has the size and time stored there."""
    found, new = [], []
    with closing(_open()) as cache:
        try:
            # The bar appears when this takes longer than a second.
            for path in tqdm(paths, desc=doing, unit="file", delay=1.0, leave=False, disable=None):
                key = str(path.absolute())
                try:
                    state = path.stat()
                    value = _recall(cache, key, kind, state)
                    if value is None:
                        value = find(path)
                        if value and time.time_ns() - state.st_mtime_ns > _RACY:
                            new.append((key, kind, state.st_size, state.st_mtime_ns, value))
                except OSError as error:
                    raise UserError(
                        f"{path}: cannot be read ({error.strerror or error}); check the data set's files"
                    ) from None
                found.append(value)
        finally:
            with suppress(sqlite3.Error), cache:
                cache.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?)", new)
    return found


def _recall(cache: sqlite3.Connection, key: str, kind: str, state: os.stat_result) -> bytes | None:
    query = "SELECT value FROM facts WHERE path = ? AND kind = ? AND size = ? AND time = ?"
    with suppress(sqlite3.Error):
        row = cache.execute(query, (key, kind, state.st_size, state.st_mtime_ns)).fetchone()
        sizes = {"blake2b-128": 16, f"thumbnail-{SIDE}": SIDE * SIDE, "header": 12, "color": 8}
        sizes["levels-2"] = len(_LEVELS)
        if row is not None and isinstance(row[0], bytes):
            size = len(row[0])
            if size == sizes.get(kind, size) and (kind in sizes or size in range(4, 4 * MOST_COLORS + 1, 4)):
                return row[0]
    return None


def _open() -> sqlite3.Connection:
    """Open the cache; a damaged one is made anew. Where none can be used, return an empty one in memory."""
    for _ in range(2):
        with suppress(sqlite3.Error, OSError):
            cache_file().parent.mkdir(parents=True, exist_ok=True)
            cache = sqlite3.connect(cache_file(), timeout=5)
            try:
                cache.execute(_TABLE)
                return cache
            except sqlite3.DatabaseError as error:
                cache.close()
                if isinstance(error, sqlite3.OperationalError):  # locked, or not writable: leave it alone
                    break
                cache_file().unlink()
    cache = sqlite3.connect(":memory:")
    cache.execute(_TABLE)
    return cache
