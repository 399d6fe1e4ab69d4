"""Files of weights that `torch.save` has written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def read_weights(path: Path, of: str) -> Mapping[str, Any]:
    """Return the mapping in a file, by torch's reader that runs no code; empty where it holds another kind.

    Args:
        path: the file.
        of: what its weights are of, for messages, such as "vgg19".

    Raises:
        ValueError: there is no such file, or it cannot be read.
    """
    if not path.is_file():  # torch would wait for a pipe
        raise ValueError(f"no file of {of}'s weights at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file
        raise ValueError(f"{path} cannot be read as weights of {of}") from error
    return content if isinstance(content, dict) else {}
