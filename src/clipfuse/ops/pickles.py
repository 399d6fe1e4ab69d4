"""Nested dictionaries of numpy arrays in a pickle, read without running what the file names."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_NUMBERS = ("f2", "f4", "f8")
_DEEPEST = 8


class _Kind:
    """Stands for `numpy.dtype`, of which a file may name the three kinds of floating-point numbers."""

    def __init__(self, code: str, *_: object) -> None:
        if code not in _NUMBERS:
            raise pickle.UnpicklingError(f"numbers of the kind {code!r}; expected {', '.join(_NUMBERS)}")
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take over the order of bytes."""
        if state[1] not in ("<", ">"):
            raise pickle.UnpicklingError(f"an order of bytes of {state[1]!r}")
        self.order = state[1]


class _Array:
    """Stands for `numpy.ndarray`; becomes a tensor once its state has been read."""

    tensor: Tensor

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Make the tensor of shape, kind, order of axes and bytes."""
        _, shape, kind, columns_first, content = state
        if not isinstance(kind, _Kind) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array that holds no floating-point numbers")
        values = np.frombuffer(content, kind.order + kind.code)
        values = values.reshape(shape, order="F" if columns_first else "C")
        self.tensor = torch.from_numpy(values.astype(np.float32, order="C"))


def _reconstruct(*_: object) -> _Array:
    return _Array()


_KNOWN = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return our stand-in for one of numpy's names; all others are refused."""
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} is named, which is no array of numpy")
        return _KNOWN[module, name]


def read_arrays(path: Path) -> dict[str, Tensor]:
    """Return the arrays of a pickle by their path in its dictionaries, such as "VGG16_0.Conv_0.kernel".

    A pickle can name any function to call. Here three of numpy's names are allowed, and stand-ins take their
    place, so that neither code of the file nor numpy's own reading of a state runs.

    Returns:
        Float32 tensors by name.

    Raises:
        pickle.UnpicklingError: another name, another kind of numbers, or no dictionaries of arrays.
        Exception: many kinds, for a broken file.
    """
    with path.open("rb") as file:
        content = _Reader(file).load()
    found: dict[str, Tensor] = {}

    def visit(node: object, names: tuple[str, ...]) -> None:
        if isinstance(node, _Array):
            found[".".join(names)] = node.tensor
        elif isinstance(node, Mapping) and len(names) < _DEEPEST:
            for key, value in node.items():
                visit(value, (*names, str(key)))
        else:
            raise pickle.UnpicklingError(f"{'.'.join(names) or 'it'} is no dictionary of arrays")

    visit(content, ())
    return found
