"""Small things around the encoder: what a file looks like, which device there is, what is said once."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from os import environ
from pathlib import Path
from typing import Any

import torch


def stamp(model: str, pretrained: str | None) -> tuple[Any, ...]:
    """What tells that a file has changed since it was loaded."""
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
    """Say once per process, and on one rank, what `micro` is."""
    if environ.get("LOCAL_RANK", "0") == "0":
        print(
            "clip=micro is a small stand-in made for this domain, not OpenAI's CLIP: use it to try things, "
            "not for the numbers of a paper",
            file=sys.stderr,
        )


@contextmanager
def plain_tensors() -> Iterator[None]:
    """Make tensors that training can use, whatever mode surrounds their first use."""
    with torch.inference_mode(False), torch.no_grad():
        yield
