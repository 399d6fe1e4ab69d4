"""What the encoder needs besides the model: changes of weights files, devices, and the notice on `micro`."""

import sys
from functools import cache
from os import environ
from pathlib import Path
from typing import Any

import torch


def stamp(model: str, pretrained: str | None) -> tuple[Any, ...]:
    """Return a key that changes when a weights file or a file of a folder of weights does."""
    place = model.partition(":")[2] if model.startswith("local-dir:") else pretrained
    if place is None or not (path := Path(place)).exists():
        return ()
    files = [path] if path.is_file() else sorted(child for child in path.iterdir() if child.is_file())
    return (path.resolve(), *((file.stat().st_mtime_ns, file.stat().st_size) for file in files))


def usable_device(name: str) -> torch.device:
    """Return a device; raises ValueError if this machine has none of that name."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch built without CUDA
        raise ValueError(f"device '{name}' cannot be used here ({str(error).splitlines()[0]})") from error


@cache
def announce() -> None:
    """Print once per process, and on one rank, what `micro` is."""
    if environ.get("LOCAL_RANK", "0") == "0":
        print(
            "clip=micro is a small stand-in made for this domain, not OpenAI's CLIP: use it to try things, "
            "not for the numbers of a paper",
            file=sys.stderr,
        )
