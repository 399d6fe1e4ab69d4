"""Hydra overrides as words of a command line: those that one process hands to another."""

from collections.abc import Sequence


def quoted(value: str) -> str:
    """Return a text as Hydra's override grammar reads it back, whatever is in it."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def search_words(words: Sequence[str]) -> list[str]:
    """Return those overrides that add folders to Hydra's search path."""
    return [word for word in words if word.startswith("hydra.searchpath")]
