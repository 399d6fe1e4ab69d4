"""What a fusion metric is: a checked pure function, and the facts a table needs about it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from math import isnan
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from clipfuse.metrics.sharing import shared
from clipfuse.ops.checks import check_planes

Score = Callable[..., Tensor]


class TooSmall(ValueError):
    """An image has fewer pixels than the metric needs."""


@dataclass(frozen=True)
class Definition:
    """One metric of the field.

    Attributes:
        name: its usual short name, as "Qabf".
        score: (fused, infrared, visible, ...) -> (N,), one score per image; see `metric`.
        unchecked: the same without its checks, for arguments that have passed them.
        higher_is_better: whether a better fused image should score higher.
        bounds: least and largest value the score can have with the default options; infinite where
            there is none.
        smallest: shortest side in pixels it is defined for; some options need more.
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

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Check the options that are choices.

        Raises:
            ValueError: an unknown option, or a value that is none of its choices.
        """
        hints = get_type_hints(self.unchecked)
        for key, value in options.items():
            if key not in hints:
                raise ValueError(f"{self.name} has no option '{key}'")
            parts = (hints[key], *get_args(hints[key]))
            choices = [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]
            if choices and isinstance(value, str) and value not in choices:
                names = ", ".join(map(repr, choices))
                raise ValueError(f"{self.name}: {key} is {value!r}; expected one of {names}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name: its functions are one another's wrappers."""
        return _definition_named, (self.name,)


DEFINITIONS: dict[str, Definition] = {}


def _definition_named(name: str) -> Definition:
    return DEFINITIONS[name]


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
        ValueError: the name is another module's, or the function takes other arguments; or by the
            function, for a wrong shape, type, range, size or option, or a NaN; the message names metric
            and tensor. `TooSmall` where it is the size.
    """

    def decorate(function: Score) -> Score:
        parameters = signature(function).parameters
        if list(parameters)[:3] != ["fused", "infrared", "visible"]:
            taken = ", ".join(parameters)
            raise ValueError(f"the metric '{name}' takes ({taken}); expected (fused, infrared, visible, ...)")
        takes_mask = "target_mask" in parameters
        needs_mask = takes_mask and parameters["target_mask"].default is not None

        @wraps(function)
        def score(
            fused: Tensor, infrared: Tensor | None = None, visible: Tensor | None = None, **options: Any
        ) -> Tensor:
            planes = {"fused": fused, "infrared": infrared, "visible": visible}
            optional = {key for key in planes if parameters[key].default is None}
            given = {key: plane for key, plane in planes.items() if plane is not None or key not in optional}
            definition.check_options(options)
            try:
                _check(smallest, given)
                if takes_mask:
                    check_mask(options.get("target_mask"), fused, needs_mask)
            except ValueError as error:
                raise type(error)(f"{name}: {error}") from None
            try:
                return function(fused, infrared, visible, **options)
            except TooSmall as error:  # an option needs more than the default
                raise TooSmall(f"{name}: {error}") from None

        definition = Definition(
            name, score, function, higher_is_better, bounds, smallest, takes_mask, needs_mask
        )
        if (known := DEFINITIONS.get(name)) and known.unchecked.__module__ != function.__module__:
            raise ValueError(
                f"the metric name '{name}' is taken by {known.unchecked.__module__}; choose another"
            )
        DEFINITIONS[name] = definition
        return score

    return decorate


def check_mask(mask: Tensor | None, fused: Tensor, needed: bool) -> None:
    """Require a bool mask of the shape of `fused`; None passes where it is not needed.

    Raises:
        ValueError: names what the mask is and what was expected.
    """
    if mask is None:
        if needed:
            raise ValueError("target_mask is missing; expected (N, 1, H, W) bool, True on targets")
        return
    if mask.dtype != torch.bool:
        raise ValueError(f"target_mask has type {mask.dtype}; expected torch.bool, True on targets")
    if mask.shape != fused.shape:
        raise ValueError(f"target_mask has shape {tuple(mask.shape)}; fused has {tuple(fused.shape)}")


def check_side(plane: Tensor, smallest: int, reason: str = "") -> None:
    """Require sides of at least `smallest` px.

    Raises:
        TooSmall: names the size and the need.
    """
    height, width = plane.shape[2:]
    if min(height, width) < smallest:
        raise TooSmall(f"fused is {height}x{width} px; expected sides of at least {smallest} px{reason}")


def _check(smallest: int, planes: Mapping[str, Tensor | None]) -> None:
    given = {name: plane for name, plane in planes.items() if plane is not None}
    if missing := planes.keys() - given.keys():
        raise ValueError(f"{min(missing)} is None; expected a luma plane, (N, 1, H, W) in 0..255")
    check_planes(**given)
    check_side(given["fused"], smallest)
    for name, plane in given.items():
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
