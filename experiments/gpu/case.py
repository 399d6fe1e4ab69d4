"""What a part of the check is made of, and the words for what came out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

OK, NOT_OK, MEASURED = "ok", "not ok", "measured"


@dataclass(frozen=True)
class Machine:
    """Where and how large.

    Attributes:
        device: `cuda` or `cpu`.
        tiny: whether only the check itself is tried.
        folder: for what is needed while the check runs.
    """

    device: torch.device
    tiny: bool
    folder: Path


@dataclass(frozen=True)
class Case:
    """One row: what is measured, in words, and how. `measure` gives the figures by column.

    A row with a verdict has it under `result`.
    """

    about: Mapping[str, Any]
    measure: Callable[[], Mapping[str, Any]]


@dataclass(frozen=True)
class Part:
    """One question.

    Attributes:
        question: its first words head the table.
        seconds: after which no other row is begun.
        settings: (machine) -> what it was measured with.
        cases: (machine) -> its rows; nothing expensive is done before the first is measured.
    """

    question: str
    seconds: float
    settings: Callable[[Machine], Mapping[str, Any]]
    cases: Callable[[Machine], list[Case]]


def verdict(**found: tuple[float, float]) -> dict[str, Any]:
    """Return differences by name, their tolerances in words, and whether each keeps its own; NaN does not."""
    tolerances = {name: f"{tolerance:.2g}" for name, (_, tolerance) in found.items()}
    each = [f"{name} {tolerance}" for name, tolerance in tolerances.items()]
    kept = all(difference <= tolerance for difference, tolerance in found.values())
    return {
        **{name: difference for name, (difference, _) in found.items()},
        "tolerance": ", ".join(each if len(each) > 1 else tolerances.values()),
        "result": OK if kept else NOT_OK,
    }


def relative(found: Tensor, expected: Tensor) -> float:
    """Return |found - expected| / |expected| in L2, in float64 on the CPU; 0 where both are 0."""
    found, expected = (each.detach().cpu().double() for each in (found, expected))
    difference = float((found - expected).norm())
    return difference / float(expected.norm().clamp(min=1e-300)) if difference else 0.0
