"""Settings of a run in plain types."""

import re
from collections.abc import Mapping
from typing import Any

# Names of files that any plugin could have.
_ANY = {"loss", "losses", "criterion", "model", "models", "main", "__main__", "plugin", "__init__"}


def leaves(node: Any, path: str = "") -> dict[str, Any]:
    """Flatten nested mappings to {"a.b": value}; lists are values."""
    if not isinstance(node, Mapping):
        return {path: node}
    flat: dict[str, Any] = {}
    for key, child in node.items():
        flat |= leaves(child, f"{path}.{key}" if path else str(key))
    return flat


def plugin_name(target: str, several: bool = False) -> str:
    """Return the short name of a class: "pixel" of "clipfuse.losses.pixel.PixelLoss".

    It is the stem of the file, or the class's own name where the stem is a general one: "edge_aware" of
    "theirs.loss.EdgeAware".

    Args:
        target: module and class.
        several: the file holds other plugins, too.
    """
    *module, name = target.split(".")
    if module and not several and module[-1] not in _ANY:
        return module[-1]
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip("_")).lower()
