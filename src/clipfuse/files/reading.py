"""Readers of files that anyone may have written: within bounds, and every failure names the file.

A file is opened only if it is a regular one, so that a pipe or a device never makes a reader wait; it is
read up to a limit; its content is plain data of a limited depth and size. Whatever is wrong raises
`UserError`, one line with the file, the reason and what to do. Files in a folder of a stranger are read with
`within`, which refuses links that lead out of it.
"""

import csv
import errno
import io
import json
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from clipfuse.errors import UserError

MOST_RESULTS = 2**28  # bytes of a file with the results of every image
MOST_BYTES = {"text": 2**24, "JSON": 2**24, "YAML": 2**22, "CSV": 2**27}
MOST_DEPTH = 64  # of lists and mappings in one another
MOST_COLUMNS = 1000  # of a CSV file
MOST_ENTRIES = 1_000_000  # of a YAML file, each alias counted as what it stands for
_MOST_BITS = 1000  # of a whole number; a larger one is no float
_LONGEST_LINE = 2**20  # of a CSV file
_REMEDY = "restore or repair the file"
_NUMBER = re.compile(r"[-+.\w:]*[0-9][-+.\w:]*", re.ASCII)
_ESCAPED = re.compile(r"'+[=+\-@\t\r\n]")
_NOTHING: Any = object()


def is_there(path: Any) -> bool:
    """Return whether anything has this name, also what is no regular file: a folder, pipe or broken link."""
    return os.path.lexists(path) if isinstance(path, Path) else bool(path.exists())


def read_bytes(
    path: Any, *, most: int = 2**28, within: Any = None, remedy: str = _REMEDY, expected: str = "a file"
) -> bytes:
    """Return the content of a regular file.

    Args:
        path: a `pathlib.Path`, or a path in a zip with its methods, which has limits of its own.
        most: the most bytes it may have.
        within: a folder that must hold the file after all links are followed; None: links are followed.
        remedy: what the user is to do about a file that cannot be read; the end of every error.
        expected: what should be there, as in "a CSV file".

    Raises:
        UserError: there is no such file, it is no regular file, is too large, cannot be read, or lies outside
            of `within`.
    """
    try:
        if not isinstance(path, Path) and not path.is_file():
            raise FileNotFoundError(errno.ENOENT, "it is a folder" if path.is_dir() else "no such file")
        with open_regular(path, within) if isinstance(path, Path) else path.open("rb") as file:
            content: bytes = file.read(most + 1)
        if len(content) > most:
            raise OSError(errno.EFBIG, f"it is larger than {most / 2**20:g} MiB")
    except (OSError, ValueError) as error:  # a ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read ({reason}); expected {expected}: {remedy}") from None
    return content


def open_regular(path: Path, within: Path | None = None) -> io.BufferedReader:
    """Open a regular file for reading; nothing else is ever waited for.

    Args:
        path: the file.
        within: a folder that must hold it after all links are followed; None: links are followed.

    Raises:
        OSError: it is missing, no regular file, outside of `within`, or cannot be read.
    """
    try:
        real = path.resolve(strict=True)
    except RuntimeError:  # links in a circle, up to Python 3.12
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
    if within is not None and not real.is_relative_to(within.resolve()):
        raise OSError(errno.EPERM, f"it is a link that leads out of {within}")
    _check_regular(os.stat(real))
    # Without waiting, and without another link, should the file be exchanged in between.
    flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(real, os.O_RDONLY | flags)
    try:
        _check_regular(os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _check_regular(info: os.stat_result) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(info.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe, socket or device")


def read_text(path: Any, *, kind: str = "text", most: int | None = None, **options: Any) -> str:
    """Return the text of a UTF-8 file, without a byte order mark.

    Args:
        path: as for `read_bytes`.
        kind: what it holds, for messages.
        most: the most bytes; by default as `MOST_BYTES` of its kind.
        **options: of `read_bytes`.

    Raises:
        UserError: as `read_bytes`, or it is no UTF-8.
    """
    limit = most or MOST_BYTES[kind]
    options.setdefault("expected", f"a {kind} file")
    content = read_bytes(path, most=limit, **options)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad(path, f"byte {error.start + 1} is no UTF-8", kind, options) from None


def _bad(path: Any, reason: object, kind: str, options: Mapping[str, Any]) -> UserError:
    shown = " ".join(str(reason).split()) or type(reason).__name__
    shown = shown if len(shown) <= 200 else f"{shown[:200]}..."
    return UserError(f"{path}: cannot be read as {kind} ({shown}); {options.get('remedy', _REMEDY)}")


def read_json(path: Any, form: Any = dict[str, Any], *, default: Any = _NOTHING, **options: Any) -> Any:
    """Return the content of a JSON file.

    `NaN` and `Infinity` are read as numbers, as Python writes them; `form` can refuse them.

    Args:
        path: as for `read_bytes`.
        form: type of the content, see `check_form`; a mapping by default.
        default: returned where nothing has this name; without it a missing file is an error.
        **options: of `read_bytes`.

    Raises:
        UserError: as `read_text`; or it is no JSON, nested too deeply, or not of that form.
    """
    if default is not _NOTHING and not is_there(path):
        return default
    text = read_text(path, kind="JSON", **options)
    try:
        content = json.loads(text)
        _check_plain(content)
    except Exception as error:  # also RecursionError and MemoryError
        raise _bad(path, error, "JSON", options) from None
    check_form(path, content, form, options.get("remedy", _REMEDY))
    return content


def read_yaml(path: Any, form: Any = dict[Any, Any], *, default: Any = _NOTHING, **options: Any) -> Any:
    """Return the content of a YAML file of one document, in plain types.

    Args:
        path: as for `read_bytes`.
        form: type of the content, see `check_form`; a mapping by default.
        default: returned where nothing has this name; without it a missing file is an error.
        **options: of `read_bytes`.

    Raises:
        UserError: as `read_text`; or it is no YAML, nested too deeply, has more entries than `MOST_ENTRIES`
            with its aliases written out, names classes, or is not of that form.
    """
    import yaml

    if default is not _NOTHING and not is_there(path):
        return default
    text = read_text(path, kind="YAML", **options)
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_events(yaml.parse(text, loader))
        content = yaml.load(text, loader)
        _check_plain(content)
    except Exception as error:  # a stranger's tag can make the constructors raise anything
        raise _bad(path, error, "YAML", options) from None
    check_form(path, content, form, options.get("remedy", _REMEDY))
    return content


def _check_events(events: Iterator[Any]) -> None:
    """Require limits of depth and of size, before anything is built of a YAML file."""
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and entries before it
    sizes: dict[str, int] = {}  # of finished nodes with an anchor
    entries = 0
    for event in events:
        name, anchor, before = type(event).__name__, getattr(event, "anchor", None), entries
        if name == "AliasEvent":
            if anchor not in sizes:
                raise ValueError(f"alias {anchor} stands for what holds it, or for nothing")
            entries += sizes[anchor]
        elif name in ("MappingStartEvent", "SequenceStartEvent"):
            open_nodes.append((anchor, before))
            entries += 1
        elif name in ("MappingEndEvent", "SequenceEndEvent"):
            anchor, before = open_nodes.pop()
        elif name == "ScalarEvent":
            entries += 1
            if len(event.value) > 400 and event.implicit[0] and _NUMBER.fullmatch(event.value):
                raise ValueError(f"a number of {len(event.value)} characters")
        if anchor is not None and not name.endswith("StartEvent"):
            sizes[anchor] = entries - before
        if len(open_nodes) > MOST_DEPTH or entries > MOST_ENTRIES:
            raise ValueError(
                f"more than {MOST_DEPTH} levels or {MOST_ENTRIES} entries, with its aliases written out"
            )


def _check_plain(content: Any) -> None:
    """Require plain types, a limited depth, and texts and numbers that can be written and computed with."""
    level = [content]
    for _ in range(MOST_DEPTH + 1):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                if bad := next((key for key in value if type(key) not in (str, int)), None):
                    raise ValueError(f"the key {bad!r} is no text")
                below += [*value, *value.values()]
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str):
                value.encode()  # half of a surrogate pair is no text
            elif isinstance(value, int) and value.bit_length() > _MOST_BITS:
                raise ValueError(f"a whole number of {value.bit_length()} bits")
            elif not isinstance(value, int | float | date | None):
                raise ValueError(f"a value of type {type(value).__name__}")
        if not below:
            return
        level = below
    raise ValueError(f"more than {MOST_DEPTH} levels of lists and mappings")


def check_form(path: Any, content: Any, form: Any, remedy: str = _REMEDY) -> None:
    """Require that the content of a file has a form.

    Args:
        path: the file, for messages.
        content: plain content.
        form: a type that pydantic can check, such as `dict[str, Any]`, `list[str]` or a `BaseModel`; numbers
            are not made of texts, nor texts of numbers.
        remedy: what the user is to do.

    Raises:
        UserError: it has another; names the first place.
    """
    from pydantic import ValidationError

    try:
        _adapter(form).validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise UserError(f"{path}: has no '{place}'; {remedy}") from None
        shown = repr(first["input"])
        shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
        message = first["msg"][:1].lower() + first["msg"][1:]
        reason = f"{place} is {shown}: {message}" if place else _expected(form, content)
        raise UserError(f"{path}: {reason}; {remedy}") from None


def _expected(form: Any, content: Any) -> str:
    wanted = "a list" if getattr(form, "__origin__", form) is list else "a mapping"
    return f"expected {wanted}, found {'nothing' if content is None else type(content).__name__}"


@cache
def _adapter(form: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(form)


def read_csv(
    path: Any, needed: Collection[str] = (), *, default: Any = _NOTHING, **options: Any
) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header line, as `csv_text` writes it; its escapes are undone.

    Args:
        path: as for `read_bytes`.
        needed: columns that must be there.
        default: returned where nothing has this name; without it a missing file is an error.
        **options: of `read_bytes`.

    Raises:
        UserError: as `read_text`; or a column is missing or occurs twice, or a line is cut off, too long, or
            has another number of cells; names the line.
    """
    if default is not _NOTHING and not is_there(path):
        return list(default)
    text = read_text(path, kind="CSV", **options)
    rows, line = [], 1
    reader = csv.reader(_lines(text), strict=True)
    try:
        head = [_unescaped(cell) for cell in next(reader, [])]
        if not text or (needed and not head):
            raise ValueError("it is empty; expected a line with the names of the columns")
        if len(head) > MOST_COLUMNS:
            raise ValueError(f"it has {len(head)} columns; expected {MOST_COLUMNS} at most")
        if twice := next((name for name in head if head.count(name) > 1), None):
            raise ValueError(f"the column {twice!r} occurs twice")
        if missing := [name for name in needed if name not in head]:
            raise ValueError(f"it has no column {missing[0]!r}")
        for row in reader:
            line = reader.line_num
            if row and len(row) != len(head):
                raise ValueError(
                    f"line {line} is cut off or too long: {len(row)} cells for {len(head)} columns"
                )
            if row:
                rows.append({name: _unescaped(cell) for name, cell in zip(head, row, strict=True)})
    except csv.Error as error:
        raise _bad(path, f"after line {line}: {error}", "CSV", options) from None
    except ValueError as error:
        raise _bad(path, error, "CSV", options) from None
    return rows


def _lines(text: str) -> Iterator[str]:
    for line in io.StringIO(text, newline=""):
        if len(line) > _LONGEST_LINE:
            raise ValueError(f"a line of more than {_LONGEST_LINE} characters")
        yield line


def _unescaped(cell: str) -> str:
    return cell[1:] if _ESCAPED.match(cell) else cell
