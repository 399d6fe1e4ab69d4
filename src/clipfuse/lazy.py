"""Names of a package that are imported when they are first used (PEP 562)."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def attach(
    package: str, names: Mapping[str, tuple[str, ...]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package.

    Args:
        package: its `__name__`.
        names: by module below the package, the names that it gives; none where the module itself is meant. A
            name must not be that of another module of the package, which takes its place when it is imported.
    """
    origin = {name: module for module, given in names.items() for name in given or (module,)}

    def load(name: str) -> Any:
        if name not in origin:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        module = import_module(f"{package}.{origin[name]}")
        value = getattr(module, name) if names[origin[name]] else module
        setattr(sys.modules[package], name, value)
        return value

    return load, lambda: sorted({*vars(sys.modules[package]), *origin})
