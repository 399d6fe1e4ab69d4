"""Hydra overrides that one process passes to another on a command line."""

import re
from collections.abc import Sequence
from typing import Any


def quoted(value: str) -> str:
    """Return a text quoted so that Hydra's override grammar reads it back unchanged."""
    # The grammar unescapes backslashes before a quote alone.
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value)
    return f"'{escaped}'"


def search_words(words: Sequence[str]) -> list[str]:
    """Return those overrides that add folders to Hydra's search path."""
    return [word for word in words if word.startswith("hydra.searchpath")]


def raw(words: Any) -> list[str]:
    """Return Hydra's record of the overrides as they were written; iterating over it would resolve them."""
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(words, resolve=False) if OmegaConf.is_config(words) else words
    return [str(word) for word in plain]
