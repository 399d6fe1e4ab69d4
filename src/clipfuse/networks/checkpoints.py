"""Reading checkpoints back: as data, never as code."""

from pathlib import Path
from typing import Any

from torch import nn

from clipfuse.errors import UserError
from clipfuse.networks.weights import check_plain, read_safetensors
from clipfuse.ops.stored import SUFFIX, read_archive

REMEDY = "expected a checkpoint that 'clipfuse train' wrote, such as RUN/checkpoints/last.ckpt"


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of `clipfuse train`, or what `clipfuse export` made of it, on the CPU.

    Returns:
        Plain types and tensors: `state_dict`, and under `clipfuse` the `config`; from `train` also all
        that a run needs to go on.

    Raises:
        UserError: the file is missing, is no checkpoint, or is one of another program.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"no checkpoint at {path}: {'it is a folder' if path.is_dir() else 'no such file'}; {REMEDY}"
        )
    try:
        content = read_safetensors(path) if path.suffix == SUFFIX else read_archive(path)
        if not isinstance(content, dict) or "clipfuse" not in content or "state_dict" not in content:
            raise UserError(f"{path} is a checkpoint of another program; {REMEDY}")
        if not isinstance(content["clipfuse"]["config"]["backbone"], dict):
            raise ValueError("its backbone is no configuration")
        check_plain(content["clipfuse"]["config"])
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as a checkpoint ({error}); {REMEDY}") from error
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path} is not a whole checkpoint; {REMEDY}") from error
    return content


def load_weights(backbone: nn.Module, checkpoint: dict[str, Any], path: str | Path) -> None:
    """Copy the backbone's weights out of a checkpoint.

    Raises:
        UserError: the weights are those of another backbone, or not finite.
    """
    prefix = "backbone."
    wanted = backbone.state_dict()
    try:
        weights = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith(prefix)}
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
        kinds = {name: value.is_floating_point() for name, value in weights.items()}
        if kinds != {name: value.is_floating_point() for name, value in wanted.items()}:
            raise ValueError("other names, or whole numbers in place of fractions")
        backbone.load_state_dict(weights)
    except Exception as error:  # crafted tensors can raise anything in torch
        raise UserError(
            f"{path} holds the weights of another backbone than {type(backbone).__name__}"
        ) from error
    if not all(bool(value.isfinite().all()) for value in wanted.values()):
        raise UserError(f"{path} holds weights that are not finite; take another checkpoint")
