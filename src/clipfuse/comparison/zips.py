"""Folders and zips of them, read by one set of methods: nothing of a zip is unpacked beside it."""

import zipfile
import zlib
from io import BytesIO, TextIOWrapper
from lzma import LZMAError
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from clipfuse.errors import UserError
from clipfuse.files import MOST_RESULTS
from clipfuse.images import read_image

Folder = Path | zipfile.Path  # either is read by `/`, `is_file`, `is_dir`, `iterdir`, `open`, `read_text`

_MOST_RATIO = 100  # of a file's size to its packed size, above `_SMALL` bytes; tables of numbers have 2 to 20
_SMALL = 2**24
_MOST_DEPTH = 64  # of folders in one another


class ZipFolder(zipfile.Path):
    """A folder or file in a zip that is read within bounds; its text is "ZIP/path/in/it"."""

    def __str__(self) -> str:
        return str(self.filename)

    def open(self, mode: str = "r", *args: Any, pwd: bytes | None = None, **kwargs: Any) -> Any:
        """Open a file for reading, as `pathlib.Path.open` does.

        Raises:
            UserError: the zip is damaged or encrypted, or the file is too large.
            FileNotFoundError: there is no such file.
        """
        if not self.is_file():
            raise FileNotFoundError(f"{self}: no such file")
        info = self.root.getinfo(self.at)
        size = info.file_size
        if size > MOST_RESULTS or size > max(_SMALL, _MOST_RATIO * info.compress_size):
            raise UserError(
                f"{self}: unpacks to {size} bytes, too many for a file of a run; leave the zip out"
            )
        try:
            content = self.root.read(info, pwd)
        except (zipfile.BadZipFile, zlib.error, LZMAError, EOFError, OSError, RuntimeError) as error:
            raise _damaged(str(self), error) from None
        return BytesIO(content) if "b" in mode else TextIOWrapper(BytesIO(content), *args, **kwargs)


def open_folder(path: Path) -> Folder:
    """Return a folder, the content of a zip, or a folder in a zip ("sweep.zip/pixel").

    Raises:
        UserError: there is none, or the zip is damaged or names files outside of itself.
    """
    if path.is_dir():
        return path.resolve()
    archive = next((each for each in (path, *path.parents) if each.is_file()), None)
    if archive is None:
        raise UserError(f"{path}: no such folder; name the folder or zip of a sweep, or run folders")
    try:
        file = zipfile.ZipFile(archive.resolve())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _damaged(str(archive), error) from None
    for name in file.namelist():
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or "\\" in name or len(parts) > _MOST_DEPTH:
            shown = name if len(name) <= 80 else f"{name[:80]}..."
            raise UserError(
                f"{archive}: holds {shown!a}, which does not lie in a folder of the zip; leave the zip out, "
                "or zip the sweep folder again"
            )
    inside = path.relative_to(archive).as_posix()
    folder = ZipFolder(file) if inside == "." else ZipFolder(file) / inside
    if not folder.is_dir():
        raise UserError(f"{path}: no such folder in {archive}; name the zip, or a folder that it holds")
    return folder


def children(folder: Folder) -> list[Folder]:
    """Return what lies in a folder, hidden files left out, "2" before "10"."""
    found: list[Folder] = [*folder.iterdir()]
    kept = [each for each in found if not each.name.startswith(".")]
    return sorted(kept, key=lambda each: (len(each.name), each.name))


def leads_out(path: Path, root: Folder) -> bool:
    """Return whether a path, with all its links followed, lies outside of a folder."""
    try:
        return not path.resolve().is_relative_to(Path(str(root)).resolve())
    except (OSError, RuntimeError):  # links in a circle lead nowhere
        return True


def read_image_in(path: Folder, root: Folder) -> Tensor:
    """Read an image of a run in a folder or zip; see `clipfuse.images.read_image`.

    Args:
        path: the image.
        root: the run folder, which must hold it after all links are followed.

    Raises:
        UserError: it lies outside of `root`, or as `read_image`.
    """
    if isinstance(path, Path):
        if leads_out(path, root):
            raise UserError(f"{path} is a link that leads out of {root}; it is not read")
        return read_image(path)
    with TemporaryDirectory() as folder:
        file = Path(folder) / f"image{Path(path.name).suffix}"
        file.write_bytes(path.read_bytes())
        try:
            return read_image(file)
        except UserError as error:
            raise UserError(str(error).replace(str(file), str(path))) from None


def _damaged(name: str, error: Exception) -> UserError:
    return UserError(
        f"{name}: the zip cannot be read ({' '.join(str(error).split()) or type(error).__name__}); copy it "
        "again, zip the sweep folder again, or leave it out"
    )
