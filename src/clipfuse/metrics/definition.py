"""What a fusion metric is: a checked pure function, and the facts a table needs about it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from math import isnan
from typing import Any

import torch
from torch import Tensor

from clipfuse.metrics.sharing import shared
from clipfuse.ops.checks import check_planes

Score = Callable[..., Tensor]


@dataclass(frozen=True)
class Definition:
    """One metric of the field.

    Attributes:
        name: its usual short name, as "Qabf".
        score: (fused, infrared, visible, ...) -> (N,), one score per image; see `metric`.
        unchecked: the same without its checks, for arguments that have passed them.
        higher_is_better: whether a better fused image should score higher.
        bounds: least and largest value the score can have; infinite where there is none.
        smallest: shortest side in pixels it is defined for.
        takes_mask: `score` takes a keyword `target_mask`, (N, 1, H, W) bool.
        needs_mask: without `target_mask` there is no score at all.
    """

    name: str
    score: Score
    unchecked: Score
    higher_is_better: bool
    bounds: tuple[float, float]
    smallest: int
    takes_mask: bool
    needs_mask: bool


DEFINITIONS: dict[str, Definition] = {}


def metric(
    name: str, *, higher_is_better: bool, bounds: tuple[float, float], smallest: int = 2
) -> Callable[[Score], Score]:
    """Make a pure function a metric: its arguments are checked, and it enters `DEFINITIONS`.

    The function takes `(fused, infrared, visible)`, each (N, 1, H, W) floating point in 0..255, and
    keyword options whose defaults are the `strict` protocol's; it returns one score per image, (N,),
    in the type of its arguments. Sources it does not look at may be None. A score that is not finite
    says that the metric is not defined for this image.

    Args:
        name: short name, as "Qabf"; in errors, tables and configurations.
        higher_is_better: whether a better fused image should score higher.
        bounds: least and largest value.
        smallest: shortest side in pixels the metric is defined for.

    Raises:
        ValueError: by the function, for a wrong shape, type, range or size, or a NaN; the message
            names metric and tensor.
    """

    def decorate(function: Score) -> Score:
        parameters = signature(function).parameters
        takes_mask = "target_mask" in parameters

        @wraps(function)
        def score(
            fused: Tensor, infrared: Tensor | None = None, visible: Tensor | None = None, **options: Any
        ) -> Tensor:
            planes = {"fused": fused, "infrared": infrared, "visible": visible}
            optional = {key for key in planes if parameters[key].default is None}
            given = {key: plane for key, plane in planes.items() if plane is not None or key not in optional}
            try:
                _check(smallest, given)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            return function(fused, infrared, visible, **options)

        needs_mask = takes_mask and parameters["target_mask"].default is not None
        DEFINITIONS[name] = Definition(
            name, score, function, higher_is_better, bounds, smallest, takes_mask, needs_mask
        )
        return score

    return decorate


def _check(smallest: int, planes: Mapping[str, Tensor | None]) -> None:
    given = {name: plane for name, plane in planes.items() if plane is not None}
    if missing := planes.keys() - given.keys():
        raise ValueError(f"{min(missing)} is None; expected a luma plane, (N, 1, H, W) in 0..255")
    check_planes(**given)
    for name, plane in given.items():
        if min(plane.shape[2:]) < smallest:
            height, width = plane.shape[2:]
            raise ValueError(f"{name} is {height}x{width} px; expected sides of at least {smallest} px")
        low, high = _extremes(plane)
        if isnan(low):
            raise ValueError(f"{name} holds NaN; expected numbers in 0..255")
        if low < 0 or high > 255:
            raise ValueError(f"{name} has values from {low:g} to {high:g}; expected 0..255")


@shared
def _extremes(plane: Tensor) -> tuple[float, float]:
    if plane.numel() == 0:
        return 0.0, 0.0
    low, high = torch.aminmax(plane.detach())
    return low.item(), high.item()
