"""Building the network of a checkpoint: torch alone, no trainer and no configuration framework."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from torch import nn

from clipfuse.errors import UserError, reason
from clipfuse.networks.checkpoints import load_weights, read_checkpoint
from clipfuse.networks.weights import limited_parameters

_BACKBONES = "clipfuse.backbones"
BUNDLED = Path(__file__).parents[1] / "backbones/best/model.safetensors"
NAMED = {
    "bundled": "model.safetensors",
    "first": "first.safetensors",
    "student": "student.safetensors",
}
"""The networks in the package: name -> file. `bundled` is taken where none is named; `first` was it before,
and `student` learned from that."""
_ROOM = 4  # a network may be larger than its file: some plugins hold a weight twice while they are built


def instantiate(node: Any) -> Any:
    """Build what a plain node describes: each mapping with `_target_`, inside out, by its other keys.

    `_partial_` gives a function of the other arguments; further keys of Hydra are ignored. Check the names by
    `check_targets` before.
    """
    if isinstance(node, list | tuple):
        return [instantiate(child) for child in node]
    if not isinstance(node, Mapping):
        return node
    built = {str(key): instantiate(child) for key, child in node.items()}
    if "_target_" not in built:
        return built
    target = resolve_name(str(built["_target_"]))
    arguments = {key: value for key, value in built.items() if key not in _WORDS}
    return partial(target, **arguments) if built.get("_partial_") else target(**arguments)


_WORDS = {"_target_", "_partial_", "_recursive_", "_convert_"}


def check_targets(node: Any, trusted: Sequence[str], path: str | Path) -> None:
    """Refuse a file that names anything but classes of trusted packages.

    The name alone proves nothing: `clipfuse.backbones.ldfusion.torch.load` is a function of torch.

    Raises:
        UserError: names `path`, the file that holds `node`, and what it names.
    """
    if isinstance(node, Mapping):
        for child in node.values():
            check_targets(child, trusted, path)
    elif isinstance(node, list | tuple):
        for child in node:
            check_targets(child, trusted, path)
    elif isinstance(node, str) and "${" in node:
        raise UserError(f"{path} refers to values of this machine ('{node}'); do not use it")
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
    """Return the configuration of a checkpoint's backbone, without the files of weights it started from.

    Args:
        checkpoint: as `read_checkpoint` returns it.
        trusted: packages beside our backbones whose classes it may name.
        path: where it came from, for messages.

    Raises:
        UserError: it names what is not a class of a trusted package.
    """
    node = checkpoint["clipfuse"]["config"]["backbone"]
    check_targets(node, (_BACKBONES, *trusted), path)
    # The checkpoint holds all weights, and the files may be gone or chosen by a stranger.
    return {key: None if str(key).endswith("_weights") else value for key, value in node.items()}


def choose_checkpoint(given: str | None) -> Path:
    """Return the file that was named, else that of the bundled weights, which the output then names.

    Raises:
        UserError: these are missing.
    """
    if given is not None:
        return Path(given)
    print(f"no --checkpoint given: the bundled weights, {bundled()}")
    return BUNDLED


def bundled() -> Path:
    """Return the file of the bundled weights.

    Raises:
        UserError: it is missing.
    """
    return named("bundled")


def named(name: str) -> Path:
    """Return the file of a network in the package.

    Raises:
        UserError: it is missing.
    """
    path = BUNDLED.with_name(NAMED[name])
    if not path.is_file():
        raise UserError(f"the bundled weights are missing ({path}); install clipfuse again")
    return path


def load_network(path: str | Path | None = None, trust: Sequence[str] = ()) -> nn.Module:
    """Return a fusion network, ready to be used.

    Args:
        path: a checkpoint of `clipfuse train`, or what `clipfuse export` made of it, .safetensors or .onnx;
            "bundled", "first" or "student", if no file has this name; None: the bundled weights.
        trust: packages beside our backbones whose classes the checkpoint may name.

    Returns:
        The network in eval mode on the CPU. `network(infrared, visible)` takes two planes (N, 1, H, W), float
        in [0, 1], and returns a `clipfuse.types.FusionOutput`. That of an .onnx file has no gradient.

    Raises:
        UserError: no such file, it names what is not a class of a trusted package, or its weights are not
            those of what it names.
    """
    if path is None or (path in NAMED and not Path(path).exists()):
        path = named(str(path or "bundled"))
    path = Path(path)
    if path.suffix != ".onnx":
        return load_backbone(path, trust)
    from clipfuse.networks.onnx import OnnxNetwork

    return OnnxNetwork(path).eval()


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
            backbone = instantiate(node)
    except UserError:
        raise
    except Exception as error:  # the arguments of a stranger can raise anything in a constructor
        raise UserError(f"the backbone of {path} cannot be built: {reason(error)}") from error
    if not isinstance(backbone, nn.Module):
        raise UserError(f"{path} names '{node.get('_target_')}', which is no network; do not use it")
    load_weights(backbone, checkpoint, path)
    return backbone.eval()
