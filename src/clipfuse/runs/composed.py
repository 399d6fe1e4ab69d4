"""A composed configuration in plain types: what records hold, and what another process is started from.

Everything is resolved but what comes from the environment: `${oc.env:NAME}` stays as it was written, so that
no secret gets into a file, and whoever reads the file resolves it from the environment of that process.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel

from clipfuse.errors import hide
from clipfuse.files import read_yaml, write_atomically


class _Form(BaseModel):
    name: str
    config: dict[str, Any]
    hydra: dict[str, Any]


@dataclass
class Composed:
    """A configuration that another process wrote.

    Attributes:
        name: of the primary configuration, "train" or "evaluate".
        config: the settings; `${oc.env:NAME}` alone is not resolved yet.
        hydra: Hydra's own node, as it was composed.
    """

    name: str
    config: DictConfig
    hydra: dict[str, Any] = field(default_factory=dict)


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a configuration in plain types, with all but the environment's values resolved.

    Raises:
        omegaconf.errors.OmegaConfBaseException: an interpolation cannot be resolved.
    """
    with _environment_kept_out():
        content = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def resolved(value: Any) -> Any:
    """Return a value of `plain` as the present environment resolves it; None where that is not possible."""
    try:
        return OmegaConf.to_container(OmegaConf.create({"value": value}), resolve=True)["value"]  # type: ignore
    except OmegaConfBaseException:
        return None


def hide_environment(config: DictConfig) -> None:
    """Keep the values that a configuration takes from the environment out of messages."""
    found = (re.findall(r"\$\{oc\.env:\s*([^,:{}]+?)\s*[,}]", text) for text in texts(plain(config)))
    names = {name.strip("'\"") for each in found for name in each}
    hide({os.environ[name]: f"${{oc.env:{name}}}" for name in names if name in os.environ})


def texts(node: Any) -> Iterator[str]:
    """Yield all texts in nested mappings and lists."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping | list | tuple):
        for child in node.values() if isinstance(node, Mapping) else node:
            yield from texts(child)


@contextmanager
def _environment_kept_out() -> Iterator[None]:
    """Inside, what resolves a variable of the environment gives its own text back, and so what uses it."""

    def kept(name: str, call: Any) -> Any:
        def resolver(root: Any, parent: Any, node: Any, args: Any, args_str: tuple[str, ...]) -> Any:
            if name == "oc.env" or any(isinstance(each, str) and "${" in each for each in args):
                return f"${{{name}:{','.join(args_str)}}}"
            return call(root, parent, node, args, args_str)

        return resolver

    resolvers = dict(BaseContainer._resolvers)
    BaseContainer._resolvers.update({name: kept(name, call) for name, call in resolvers.items()})
    try:
        yield
    finally:
        BaseContainer._resolvers.clear()
        BaseContainer._resolvers.update(resolvers)


def write_composed(path: Path, name: str, config: DictConfig, hydra: Mapping[str, Any] | None = None) -> None:
    """Write a composed configuration so that `read_composed` gives it back in another process.

    Args:
        path: the file.
        name: of the primary configuration.
        config: its settings, without Hydra's node.
        hydra: that node, in plain types.

    Raises:
        UserError: the file cannot be written.
    """
    content = {"name": name, "config": plain(config), "hydra": dict(hydra or {})}
    with write_atomically(path) as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create(content)))


def read_composed(path: Path) -> Composed:
    """Read what `write_composed` wrote.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    content = read_yaml(path, _Form, remedy="start the run anew by its own command")
    return Composed(content["name"], OmegaConf.create(content["config"]), content["hydra"])
