"""Files: written whole or not at all, and known by their hashes."""

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from clipfuse.errors import UserError
from clipfuse.files.reading import open_regular

if TYPE_CHECKING:
    from torch import Tensor


PARTIAL = re.compile(r"\..+\.\d+\.partial")  # names of what a killed process leaves half written
_LONGEST = 200  # bytes of a name that is kept in that of its partial file
_FORMULA = re.compile(
    r"'*[=+\-@\t\r\n]"
)  # begins a cell that a spreadsheet would run, or one with our escape


@contextmanager
def replace_when_whole(path: Path, durable: bool = True, overwrite: bool = True) -> Iterator[Path]:
    """Give the name of a file that takes the place of `path` at the end, or vanishes on an error.

    Args:
        path: the file; missing folders are made, and vanish with it.
        durable: whether the new name is also brought to the disk, so that it outlives a crash of the machine.
        overwrite: whether a file of this name may be replaced, also one that appears in the meantime.

    That name is matched by `PARTIAL`, and short enough even where that of `path` is as long as can be.

    Raises:
        UserError: it cannot be written, or is there and must stay.
    """
    name = os.fsencode(path.name)
    label = path.name if len(name) <= _LONGEST else hashlib.sha256(name).hexdigest()
    temporary = path.with_name(f".{label}.{os.getpid()}.partial")
    missing = _missing_folders(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        (os.replace if overwrite else rename_to_free)(temporary, path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{path}: cannot be written ({reason}); make room, or choose a writable place"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        with suppress(OSError):  # the first that is not empty ends it
            for folder in missing:
                folder.rmdir()


def rename_to_free(temporary: Path, path: Path) -> None:
    """Rename a file where the name is free; checked and taken at one blow.

    Raises:
        UserError: it is taken.
    """
    try:
        os.link(temporary, path)
        temporary.unlink()
        return
    except FileExistsError:
        raise _taken(path) from None
    except OSError:  # a file system without hard links
        pass
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        raise _taken(path) from None
    try:
        os.replace(temporary, path)
    except OSError:
        path.unlink()
        raise


def _taken(path: Path) -> UserError:
    return UserError(f"{path} is there already; choose another file or add --overwrite")


@contextmanager
def write_atomically(path: Path, mode: Literal["w", "wb"] = "w", overwrite: bool = True) -> Iterator[IO[Any]]:
    """Open a file that appears at `path` whole and on the disk, or not at all; text is UTF-8.

    Raises:
        UserError: it cannot be written, or is there and must stay.
    """
    text = {"newline": "", "encoding": "utf-8"} if mode == "w" else {}
    with (
        replace_when_whole(path, overwrite=overwrite) as temporary,
        open(temporary, mode, **text) as file,  # type: ignore[call-overload]
    ):
        yield file
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Bring a renaming to the disk; a few file systems cannot, and need not."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_output(path: Path, overwrite: bool, sources: Iterable[Path] = ()) -> None:
    """Find out before the work whether a file can be written after it; leaves nothing behind.

    Args:
        path: the file.
        overwrite: whether a file of this name may be replaced.
        sources: files that the work reads, which are never replaced.

    Raises:
        UserError: it exists and `overwrite` is False, it is one of `sources`, or it cannot be written.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file")
    if path.exists() and any(source.exists() and path.samefile(source) for source in sources):
        raise UserError(f"{path} is read here, so it cannot be written too; name another file")
    if os.path.lexists(path) and not overwrite:
        raise _taken(path)
    try:
        probe_folder([path, *_missing_folders(path)][-1].parent)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{path.parent}: cannot be written to ({reason}); make room, or choose another place"
        ) from error


def _missing_folders(path: Path) -> list[Path]:
    """Return the folders above a file that are not there, from the nearest on."""
    return [folder for folder in path.parents if not os.path.lexists(folder)]


def probe_folder(folder: Path) -> None:
    """Make a folder and find out that files can be written into it.

    Raises:
        OSError: they cannot.
    """
    probe = folder / f".probe.{os.getpid()}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    probe.touch()
    probe.unlink()


def write_json(path: Path, content: Any, overwrite: bool = True) -> None:
    """Write JSON that a person can read, atomically."""
    with write_atomically(path, overwrite=overwrite) as file:
        json.dump(content, file, indent=2)
        file.write("\n")


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any] | Sequence[Any]]) -> str:
    """Return a CSV table; `read_csv` reads it.

    A text that a spreadsheet would run as a formula, or that begins like the escape of one, gets a ' in
    front; numbers stay as they are.

    Args:
        columns: the header line.
        rows: of each the cells in this order, or by column, where a missing one is blank.
    """
    table = io.StringIO(newline="")
    writer = csv.writer(table)  # its ends of lines, CR LF, are what it quotes in cells
    writer.writerow([_safe_cell(name) for name in columns])
    for row in rows:
        cells = [row.get(name, "") for name in columns] if isinstance(row, Mapping) else row
        writer.writerow([_safe_cell(cell) for cell in cells])
    return table.getvalue()


def _safe_cell(cell: Any) -> Any:
    if not isinstance(cell, str) or not _FORMULA.match(cell):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def conf_dir() -> Path:
    """Return the folder of the configuration tree: in the wheel, or beside `src` in a checkout."""
    package = Path(__file__).resolve().parents[1]
    candidates = [package / "conf", package.parents[1] / "conf"]
    for folder in candidates:
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"the configuration tree is missing (looked in {candidates[0]}); install clipfuse again")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of the bytes of a regular file; raises as `open_regular`."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_sha256(content: Any) -> str:
    """Return the SHA-256 (hex) of plain content, written as JSON with its keys in order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def weights_sha256(weights: "Mapping[str, Tensor]", head: bytes = b"") -> str:
    """Return the SHA-256 (hex) over names, types, shapes and bytes of weights: the same for any file format.

    Args:
        weights: tensors by name, of any device.
        head: bytes that are hashed first.
    """
    import torch

    digest = hashlib.sha256(head)
    for name, value in sorted(weights.items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
