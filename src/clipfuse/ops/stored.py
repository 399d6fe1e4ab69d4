"""Files of weights from strangers: read as data that is no larger than the file, never as code."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from clipfuse.files import open_regular
from clipfuse.ops.pickles import read_arrays

SUFFIX = ".safetensors"
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's files before version 1.6: a pickled number


def read_weights(path: Path, of: str) -> Mapping[str, Any]:
    """Return the mapping in a file, by readers that run no code of it; empty where it holds another kind.

    What kind of file it is follows from its first bytes, not from its name: safetensors, a pickle of nested
    dictionaries of numpy arrays (`clipfuse.ops.pickles`), else a file of `torch.save`.

    Args:
        path: the file; torch's format before version 1.6, which has no checksums, is read as well, since
            published weights are still stored in it.
        of: what its weights are of, for messages, such as "vgg19".

    Raises:
        ValueError: there is no such file, or it cannot be read.
    """
    if not path.is_file():  # torch would wait for a pipe
        raise ValueError(f"no file of {of}'s weights at {path}")
    try:
        with open_regular(path) as file:
            first = file.read(len(_LEGACY))
        content: Any
        if first[8:9] == b"{" and int.from_bytes(first[:8], "little") < path.stat().st_size:
            with open_regular(path) as file:
                content = load(file.read())
        elif first.startswith(_PICKLE) and first != _LEGACY:
            content = read_arrays(path)
        else:
            content = read_archive(path, old=True)
    except Exception as error:  # a crafted file can raise anything in its parser
        raise ValueError(f"{path} cannot be read as weights of {of} ({error})") from error
    return content if isinstance(content, dict) else {}


def read_archive(path: Path, old: bool = False) -> Any:
    """Read what `torch.save` wrote, on the CPU, as plain types and tensors.

    Torch itself neither compares the checksums nor refuses an archive that unpacks to more than the file.

    Args:
        path: the file.
        old: whether torch's format before version 1.6 is read, too.

    Raises:
        ValueError: it is damaged, compressed, of torch's old format, or holds more than data.
        OSError: it cannot be opened.
    """
    with open_regular(path) as file:
        packed = file.read(4) == _ZIP
    if packed:
        _check_archive(path)
    elif not old:  # torch would read it as its old format
        raise ValueError("no file of torch.save, or an empty or truncated one")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a crafted file can raise anything in torch
        raise ValueError("more than data, or damaged") from error


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            if not stored or sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise ValueError("it unpacks to more than it holds")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OverflowError) as error:
        raise ValueError("truncated or damaged") from error
    if damaged:
        raise ValueError(f"damaged: the checksum of {damaged} does not fit")
