"""Digests and thumbnails of files, kept in a cache between trainings."""

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from clipfuse.errors import UserError
from clipfuse.files import open_regular
from clipfuse.images import read_thumbnail

SIDE = 32
_RACY = 2_000_000_000  # ns: a file changed this recently may change again under the same time stamp
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
                        if time.time_ns() - state.st_mtime_ns > _RACY:
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
        sizes = {"blake2b-128": 16, f"thumbnail-{SIDE}": SIDE * SIDE}
        if row is not None and isinstance(row[0], bytes) and len(row[0]) == sizes[kind]:
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
