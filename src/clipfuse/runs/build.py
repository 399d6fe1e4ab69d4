"""Building the objects that a configuration describes, by Hydra."""

import re
from collections.abc import Mapping
from typing import Any

import hydra
from hydra.errors import InstantiationException
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from clipfuse.errors import UserError, reason

_REFUSALS = (UserError, ValueError, TypeError, ImportError, OSError, MisconfigurationException)


def build(node: DictConfig | Mapping[str, Any], where: str, **extra: Any) -> Any:
    """Return the object that `node` describes.

    Args:
        node: `_target_` and arguments.
        where: place in the configuration; every error begins with it.
        **extra: further arguments.

    Raises:
        UserError: the constructor refused its arguments.
    """
    try:
        return hydra.utils.instantiate(node, _convert_="all", **extra)
    except InstantiationException as error:
        if found := re.search(r"full_key: (\S+)", str(error)):  # of a node in this one
            own = node._get_full_key(None) if isinstance(node, DictConfig) else ""
            where = f"{where}{found[1].removeprefix(own)}" if own else f"{where}.{found[1]}"
            where = "clip" if where.endswith(".clip") else where  # a link to it
        cause: BaseException = error
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, _REFUSALS):
            raise UserError(f"{where}: {reason(cause)}") from error
        # Raised by a package that does not check its arguments, or a defect of a plugin.
        kind = type(cause).__name__
        raise UserError(f"{where}: {kind}: {reason(cause)}; --debug shows where it was raised") from error


def build_all(nodes: DictConfig | None, where: str) -> list[Any]:
    """Return the objects of a group that is a mapping, such as callbacks; entries of null are left out."""
    return [build(node, f"{where}.{key!s}") for key, node in (nodes or {}).items() if node is not None]
