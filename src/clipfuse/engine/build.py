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
from clipfuse.engine.weights import limited_parameters
from clipfuse.errors import UserError

_REFUSALS = (UserError, ValueError, TypeError, ImportError, OSError, MisconfigurationException)
_BACKBONES = "clipfuse.backbones"
BUNDLED = Path(__file__).parents[1] / "backbones/best/model.safetensors"
_ROOM = 4  # a network may be built larger than its file: some plugins hold a weight twice on the way


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
        if isinstance(cause, _REFUSALS):
            raise UserError(f"{where}: {cause}") from error
        # Of a package that does not check what it is given, or a plugin's mistake.
        kind = type(cause).__name__
        raise UserError(f"{where}: {kind}: {cause}; --debug shows where it was raised") from error


def build_all(nodes: DictConfig | None, where: str) -> list[Any]:
    """Instantiate the entries of a group that is a mapping, such as callbacks."""
    return [build(node, f"{where}.{key!s}") for key, node in (nodes or {}).items() if node is not None]


def check_targets(node: Any, trusted: Sequence[str], path: str | Path) -> None:
    """Refuse whatever a file names that is not a class of a trusted package.

    The name alone proves nothing: `clipfuse.backbones.ldfusion.torch.load` is a function of torch.

    Raises:
        UserError: names `path`, which holds `node`, and what it wants.
    """
    if isinstance(node, Mapping):
        for child in node.values():
            check_targets(child, trusted, path)
    elif isinstance(node, list | tuple):
        for child in node:
            check_targets(child, trusted, path)
    elif isinstance(node, str) and "${" in node:
        raise UserError(f"{path} asks for values of this machine ('{node}'); do not use it")
    if not isinstance(node, Mapping) or "_target_" not in node:
        return
    if "_args_" in node:
        raise UserError(f"{path} gives arguments without names; do not use it")
    target = str(node["_target_"])
    package = target.partition(".")[0]
    if package not in (*trusted, "clipfuse"):
        raise UserError(f"{path} wants to run code of '{package}'; if you trust it, add: trust '{package}'")
    refusal = f"{path} names '{target}', which is not a class of {' or '.join(trusted)}; do not use it"
    if not _lies_in(target, trusted):
        raise UserError(refusal)
    try:
        found = resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{path} names '{target}', which cannot be imported here ({error})") from error
    if not isinstance(found, type) or not _lies_in(found.__module__, trusted):
        raise UserError(refusal)


def _lies_in(name: str, packages: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def backbone_node(checkpoint: Mapping[str, Any], trusted: Sequence[str], path: str | Path) -> dict[str, Any]:
    """Return how a checkpoint says that its backbone is built, without the files it once started from.

    Args:
        checkpoint: as `read_checkpoint` returns it.
        trusted: packages beside our backbones whose classes it may name.
        path: where it came from, for messages.

    Raises:
        UserError: it names what is not a class of a trusted package.
    """
    node = checkpoint["clipfuse"]["config"]["backbone"]
    check_targets(node, (_BACKBONES, *trusted), path)
    # The files may be gone, or a stranger's idea; their weights are in the checkpoint.
    return {key: None if str(key).endswith("_weights") else value for key, value in node.items()}


def choose_checkpoint(given: str | None) -> Path:
    """Return the file that was named, else that of the bundled weights, which the output then says.

    Raises:
        UserError: these are missing.
    """
    if given is not None:
        return Path(given)
    if not BUNDLED.is_file():
        raise UserError(f"the bundled weights are missing ({BUNDLED}); install clipfuse again")
    print(f"no --checkpoint given: the bundled weights, {BUNDLED}")
    return BUNDLED


def load_backbone(path: str | Path, trusted: Sequence[str] = ()) -> nn.Module:
    """Build the backbone of a checkpoint, in eval mode, with its weights.

    Args:
        path: a checkpoint of `clipfuse train`, or what `clipfuse export` made of it.
        trusted: packages beside our backbones whose classes the checkpoint may name.

    Raises:
        UserError: no such checkpoint, it names what is not a class of a trusted package, or its weights
            are not those of what it names.
    """
    return build_backbone(read_checkpoint(path), path, trusted)


def build_backbone(checkpoint: dict[str, Any], path: str | Path, trusted: Sequence[str] = ()) -> nn.Module:
    """Build the backbone of a checkpoint that was read from `path`; see `load_backbone`."""
    node = backbone_node(checkpoint, trusted, path)
    try:
        with limited_parameters(_ROOM * Path(path).stat().st_size):
            backbone = build(node, f"the backbone of {path}")
    except UserError:
        raise
    except Exception as error:  # a stranger's arguments raise whatever a constructor stumbles upon
        raise UserError(f"the backbone of {path} cannot be built: {error}") from error
    if not isinstance(backbone, nn.Module):
        raise UserError(f"{path} names '{node.get('_target_')}', which is no network; do not use it")
    load_weights(backbone, checkpoint, path)
    return backbone.eval()
