"""Hydra overrides that one process passes to another on a command line."""

from collections.abc import Sequence


def quoted(value: str) -> str:
    """Return a text quoted so that Hydra's override grammar reads it back unchanged."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def search_words(words: Sequence[str]) -> list[str]:
    """Return those overrides that add folders to Hydra's search path."""
    return [word for word in words if word.startswith("hydra.searchpath")]
