"""Protocols: which convention each metric follows, as data.

A protocol holds, for each metric whose published definition it departs from, the options of the
metric's pure function. `strict` departs nowhere: the functions' defaults are the published
definitions, computed in float64 on 8-bit luma in 0..255, their known flaws repaired.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import e
from typing import Any

from clipfuse.metrics import contrast, correlation  # noqa: F401  (they enter DEFINITIONS)
from clipfuse.metrics.definition import DEFINITIONS, Definition

UNCHECKED = "from the description, not checked against the published code"


@dataclass(frozen=True)
class Protocol:
    """A named and versioned convention.

    Attributes:
        name: short name.
        version: raised whenever a number it gives may change.
        summary: what it is, one line.
        metrics: the metrics it has, in the order of its tables.
        options: metric -> keyword options of its function, where they are not the defaults.
        checked: metrics whose values are tested against the published code's.
        fast: metrics cheap enough for every validation.
    """

    name: str
    version: int
    summary: str
    metrics: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    checked: frozenset[str] = frozenset()
    fast: tuple[str, ...] = ("EN", "SD", "SF", "AG", "MI", "CC", "SCD", "SSIM")

    def __str__(self) -> str:
        return f"{self.name}-{self.version}"
