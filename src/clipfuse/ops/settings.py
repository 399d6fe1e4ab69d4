"""Settings of a run in plain types."""

from collections.abc import Mapping
from typing import Any


def leaves(node: Any, path: str = "") -> dict[str, Any]:
    """Flatten nested mappings to {"a.b": value}; lists are values."""
    if not isinstance(node, Mapping):
        return {path: node}
    flat: dict[str, Any] = {}
    for key, child in node.items():
        flat |= leaves(child, f"{path}.{key}" if path else str(key))
    return flat
