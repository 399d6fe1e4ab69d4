"""Making the objects a configuration describes, by Hydra: every object of a run is made here."""

from collections.abc import Mapping
from typing import Any

import hydra
from hydra.errors import InstantiationException
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from clipfuse.errors import UserError

_REFUSALS = (UserError, ValueError, TypeError, ImportError, OSError, MisconfigurationException)


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
