"""The rows of the curves: means over the micro-batches of an update and over all ranks, by name."""

import logging
import math
from collections.abc import Callable, Mapping
from statistics import fmean

import torch
from torch import Tensor

log = logging.getLogger(__name__)


class UpdateRows:
    """Collects the values of the micro-batches of one update.

    A value is averaged over the micro-batches that have it. All ranks have the same names in each of them,
    in any order, which `LossProblem.check_finite` requires.
    """

    def __init__(self) -> None:
        self._parts: list[dict[str, float]] = []
        self._odd: set[str] = set()

    def add(self, total: float, terms: Mapping[str, float], where: str) -> None:
        """Add a micro-batch, and warn once of each term that is not finite; `where` is for the warning."""
        for name, value in terms.items():
            if not math.isfinite(value) and name not in self._odd:
                self._odd.add(name)
                text = "%s is %s %s; the total is finite, so the term is only logged"
                log.warning(text, name, value, where)
        self._parts.append({"train/loss/total": total, **terms})

    def clear(self) -> None:
        """Forget the micro-batches of an update that is skipped."""
        self._parts.clear()

    def take(self) -> dict[str, float]:
        """Return the means over the micro-batches, and forget these."""
        parts, self._parts = self._parts, []
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: fmean(part[name] for part in parts if name in part) for name in names}


def mean_by_name(
    row: Mapping[str, float], mean: Callable[[Tensor], Tensor], device: torch.device
) -> dict[str, float]:
    """Return the mean of each value over the ranks, in the order of `row`; one collective.

    Args:
        row: values by name; the names are the same on all ranks, in any order.
        mean: returns the mean of a tensor over the ranks.
        device: on which they exchange it.
    """
    names = sorted(row)
    mine = torch.tensor([row[name] for name in names], dtype=torch.float64, device=device)
    means = dict(zip(names, mean(mine).tolist(), strict=True))
    return {name: means[name] for name in row}
