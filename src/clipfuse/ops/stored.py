"""Files of weights: what `torch.save` has written, safetensors, and pickles of numpy arrays."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from clipfuse.ops.pickles import read_arrays

_PICKLE = b"\x80"
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's files before version 1.6: a pickled number


def read_weights(path: Path, of: str) -> Mapping[str, Any]:
    """Return the mapping in a file, by readers that run no code of it; empty where it holds another kind.

    What kind of file it is follows from its first bytes, not from its name: safetensors, a pickle of nested
    dictionaries of numpy arrays (`clipfuse.ops.pickles`), else a file of `torch.save`.

    Args:
        path: the file.
        of: what its weights are of, for messages, such as "vgg19".

    Raises:
        ValueError: there is no such file, or it cannot be read.
    """
    if not path.is_file():  # torch would wait for a pipe
        raise ValueError(f"no file of {of}'s weights at {path}")
    try:
        with path.open("rb") as file:
            first = file.read(len(_LEGACY))
        if first[8:9] == b"{" and int.from_bytes(first[:8], "little") < path.stat().st_size:
            from safetensors.torch import load_file

            return load_file(path)
        if first.startswith(_PICKLE) and first != _LEGACY:
            return read_arrays(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # readers raise many kinds for a broken file
        raise ValueError(f"{path} cannot be read as weights of {of}") from error
    return content if isinstance(content, dict) else {}
