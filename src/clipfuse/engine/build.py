"""Making the objects a configuration describes: every object of a run is made here."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import hydra
from hydra.errors import InstantiationException
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from torch import nn

from clipfuse.engine.checkpoints import load_weights, read_checkpoint
from clipfuse.errors import UserError


def build(node: DictConfig | Mapping[str, Any], where: str, **extra: Any) -> Any:
    """Instantiate what `node` describes.

    Raises:
        UserError: the constructor refused; the message starts with the place in the configuration.
    """
    try:
        return hydra.utils.instantiate(node, _convert_="all", **extra)
    except InstantiationException as error:
        cause: BaseException = error
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, UserError | ValueError | TypeError | ImportError | MisconfigurationException):
            raise UserError(f"{where}: {cause}") from error
        raise


def build_all(nodes: DictConfig | None, where: str) -> list[Any]:
    """Instantiate the entries of a group that is a mapping, such as callbacks."""
    return [build(node, f"{where}.{key!s}") for key, node in (nodes or {}).items() if node is not None]


def _check_targets(node: Any, trusted: Sequence[str], path: str | Path) -> None:
    """Refuse whatever a file names that is not a class of a trusted package.

    The name alone proves nothing: `clipfuse.engine.checkpoints.torch.load` is a function of torch.
    """
    if isinstance(node, Mapping):
        for child in node.values():
            _check_targets(child, trusted, path)
    elif isinstance(node, list):
        for child in node:
            _check_targets(child, trusted, path)
    if not isinstance(node, Mapping) or "_target_" not in node:
        return
    target = str(node["_target_"])
    package = target.partition(".")[0]
    if package not in trusted:
        raise UserError(f"{path} wants to run code of '{package}'; if you trust it, add: trust '{package}'")
    try:
        found = resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{path} names '{target}', which cannot be imported here ({error})") from error
    if not isinstance(found, type) or found.__module__.partition(".")[0] not in trusted:
        raise UserError(
            f"{path} names '{target}', which is not a class of {' or '.join(trusted)}; do not use it"
        )


def load_backbone(path: str | Path, trusted: Sequence[str] = ()) -> nn.Module:
    """Build the backbone of a checkpoint, in eval mode, with its weights.

    Args:
        path: a checkpoint of `clipfuse train`.
        trusted: packages beside clipfuse whose classes the checkpoint may name.

    Raises:
        UserError: no such checkpoint, or it names what is not a class of a trusted package.
    """
    checkpoint = read_checkpoint(path)
    node = checkpoint["clipfuse"]["config"]["backbone"]
    _check_targets(node, ("clipfuse", *trusted), path)
    # The files it started from may be gone; their weights are in the checkpoint.
    node = {key: None if str(key).endswith("_weights") else value for key, value in node.items()}
    backbone = build(node, f"the backbone of {path}")
    if not isinstance(backbone, nn.Module):
        raise UserError(f"{path} names '{node['_target_']}', which is no network; do not use it")
    load_weights(backbone, checkpoint, path)
    return backbone.eval()
