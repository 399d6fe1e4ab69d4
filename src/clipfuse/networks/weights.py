"""Networks of strangers as safetensors, and what their configuration and size may be."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from clipfuse.files import open_regular, weights_sha256, write_atomically

_PREFIX = "backbone."
_MOST_VALUES, _DEEPEST, _LARGEST = 10_000, 32, 2**63


def walk(node: Any) -> Iterator[Any]:
    """Yield the keys and leaves of nested mappings and lists that may hold themselves.

    Raises:
        ValueError: there are too many values, nested too deeply, or a key is neither text nor number.
    """
    pending, count = [(node, 0)], 0
    while pending:
        value, depth = pending.pop()
        count += 1
        if count > _MOST_VALUES or depth > _DEEPEST:
            raise ValueError("its configuration is too large, too deep, or holds itself")
        if isinstance(value, Mapping):
            if not all(isinstance(key, str | int) for key in value):
                raise ValueError("the keys of its configuration are not words")
            yield from value
            pending += [(child, depth + 1) for child in value.values()]
        elif isinstance(value, list | tuple):
            pending += [(child, depth + 1) for child in value]
        else:
            yield value


def check_plain(node: Any) -> None:
    """Require strings, numbers, lists and mappings, few and not nested deeply or in themselves.

    Raises:
        ValueError: names what was found instead.
    """
    for value in walk(node):
        if not isinstance(value, str | int | float | None):
            raise ValueError(f"its configuration holds a {type(value).__name__} among plain values")
        if isinstance(value, int) and abs(value) >= _LARGEST:
            raise ValueError("its configuration holds a number of absurd size")


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read what `write_safetensors` wrote, as a checkpoint of nothing but a backbone.

    Raises:
        ValueError: it is damaged; an empty mapping stands for a file of another program.
    """
    try:
        open_regular(path).close()
        with safe_open(path, "pt") as file:
            ours = (file.metadata() or {}).get("clipfuse")
            if ours is None:
                return {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        record = json.loads(ours)
        node, digest = record["backbone"], record["sha256"]
    except Exception as error:  # any error of a parser: the file is a stranger's
        raise ValueError("truncated or damaged") from error
    if digest != _digest(node, weights):
        raise ValueError("damaged: its checksum does not fit")
    state = {_PREFIX + name: value for name, value in weights.items()}
    return {"clipfuse": {"config": {"backbone": node}}, "state_dict": state}


def write_safetensors(
    path: Path, node: Mapping[str, Any], backbone: nn.Module, overwrite: bool = True
) -> None:
    """Write the weights of a backbone, and in the metadata how to build it.

    Args:
        path: the file; it appears whole or not at all.
        node: the backbone's configuration in plain types.
        backbone: holds the weights.
        overwrite: whether a file that is there, or appears in the meantime, is replaced.

    Raises:
        UserError: the file cannot be written, or is there and must stay.
    """
    # Clones: tensors that share memory are refused.
    weights = {name: value.detach().cpu().clone() for name, value in backbone.state_dict().items()}
    weights = {name: value.contiguous() for name, value in weights.items()}
    record = {"backbone": node, "sha256": _digest(node, weights)}
    # One entry: several are written in any order, and equal weights are to make equal files.
    content = save(weights, {"clipfuse": json.dumps(record)})
    with write_atomically(path, "wb", overwrite) as file:
        file.write(content)


def _digest(node: Any, weights: Mapping[str, Tensor]) -> str:
    return weights_sha256(weights, json.dumps(node, sort_keys=True).encode())


@contextmanager
def limited_parameters(limit: int) -> Iterator[None]:
    """Stop building a module whose parameters take more memory than `limit`, before the memory is filled.

    Args:
        limit: in bytes.

    Raises:
        ValueError: the limit is passed; names the size reached.
    """
    seen: dict[int, Any] = {}
    total = 0

    def count(module: nn.Module, name: str, parameter: Any) -> None:
        nonlocal total
        if parameter is not None and id(parameter) not in seen:
            seen[id(parameter)] = parameter
            total += parameter.nbytes
        if total > limit:
            raise ValueError(f"its network has {total} bytes of weights or more, the file far less")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
