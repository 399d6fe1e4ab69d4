"""What a fusion metric is: a checked function of images, and the facts a table needs about it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, cleandoc, signature
from math import isnan
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from clipfuse.metrics.sharing import shared
from clipfuse.ops.checks import check_shapes
from clipfuse.ops.depth import to_levels

Score = Callable[..., Tensor]

ROUNDING = 1e-5  # share of the range that float32 arithmetic may exceed it by
EXPECTED = {
    1.0: "[0, 1] with data_range=1.0; images in 0..255 need data_range=255",
    255.0: "0..255 with data_range=255; images in [0, 1] need data_range=1.0",
}
CONTRACT = """

The images fused, infrared and visible are luma, (N, 1, H, W) tensors of one shape with sides of at least
{side} px. They are rounded to 8 bits first, so the score, (N,) float64, has no gradient. `data_range` is 1.0
for floating-point images in [0, 1], or 255 for images of any number type in 0..255.

Raises:
    ValueError: a wrong type, shape, size, range or option, or NaN; names the metric and the image.
"""


class TooSmall(ValueError):
    """An image has fewer pixels than the metric needs."""


@dataclass(frozen=True)
class Definition:
    """One metric of the field.

    Attributes:
        name: its usual short name, such as "Qabf".
        score: (fused, infrared, visible, *, data_range=1.0, ...) -> (N,), the checked function of images
            that `metric` returns.
        kernel: the same without checks, on planes that are rounded already: (N, 1, H, W) float64, whole
            numbers in 0..255. Differentiable where its docstring names no exception.
        higher_is_better: whether a better fused image should score higher.
        bounds: least and largest value the score can have with the default options; infinite where
            the score has no bound.
        smallest: shortest side in pixels it is defined for; some options need more.
        takes_mask: `score` takes a keyword `target_mask`, (N, 1, H, W) bool, True on targets.
        needs_mask: without `target_mask` there is no score at all.
    """

    name: str
    score: Score
    kernel: Score
    higher_is_better: bool
    bounds: tuple[float, float]
    smallest: int
    takes_mask: bool
    needs_mask: bool

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Check the names of options, and the values of those that are choices.

        Raises:
            ValueError: an unknown option, or a value that is none of its choices.
        """
        known, hints = signature(self.kernel).parameters, get_type_hints(self.kernel)
        for key, value in options.items():
            if key not in known:
                raise ValueError(f"{self.name} has no option '{key}'")
            parts = (hints.get(key), *get_args(hints.get(key)))
            choices = [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]
            if choices and isinstance(value, str) and value not in choices:
                names = ", ".join(map(repr, choices))
                raise ValueError(f"{self.name}: {key} is {value!r}; expected one of {names}")

    def compute(
        self,
        images: Mapping[str, Tensor | None],
        options: Mapping[str, Any],
        *,
        target_mask: Tensor | None = None,
        data_range: float = 1.0,
        expected: str = "[0, 1]",
    ) -> Tensor:
        """Check images, round them to 8 bits and score them.

        Args:
            images: fused, infrared and visible by name; a source that the kernel does not use may be None.
            options: checked options of the kernel.
            target_mask: (N, 1, H, W) bool, or None.
            data_range: 1.0 or 255.
            expected: how errors name the range.

        Returns:
            (N,); not finite where the metric is not defined for an image.

        Raises:
            TooSmall: sides below those that the metric or its options need.
            ValueError: anything else that the metric cannot take.
        """
        try:
            given = {name: image for name, image in images.items() if image is not None}
            parameters = signature(self.kernel).parameters
            for name in images.keys() - given.keys():
                if parameters[name].default is not None:
                    raise ValueError(f"{name} is None; expected a luma image, (N, 1, H, W) in {expected}")
            check_shapes(**given)
            check_mask(target_mask, given["fused"], self.needs_mask)
            planes = {name: eight_bit(name, image, data_range, expected) for name, image in given.items()}
            check_side(planes["fused"], self.smallest)
            extra = {"target_mask": target_mask} if self.takes_mask else {}
            scores = self.kernel(**planes, **extra, **options)
            count = len(planes["fused"])
            if not isinstance(scores, Tensor) or scores.shape != (count,):
                found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
                raise ValueError(f"gave {found}; expected one score per image, ({count},)")
        except ValueError as error:
            kind = TooSmall if isinstance(error, TooSmall) else ValueError
            raise kind(f"{self.name}: {error}") from error
        return scores

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name: its functions are one another's wrappers."""
        return _definition_named, (self.name,)


DEFINITIONS: dict[str, Definition] = {}


def _definition_named(name: str) -> Definition:
    return DEFINITIONS[name]


def metric(
    name: str, *, higher_is_better: bool, bounds: tuple[float, float], smallest: int = 2
) -> Callable[[Score], Score]:
    """Make a function of 8-bit planes a metric: a checked function of images, in `DEFINITIONS`.

    The function below the decorator, the kernel, gets `(fused, infrared, visible)`, each (N, 1, H, W) float64
    whole numbers in 0..255, whatever range the images had, and keyword options whose defaults are the
    `strict` protocol's. It returns one score per image, (N,). Sources with the default None may be left out.
    A score that is not finite marks the metric as not defined for this image.

    The function that the decorator returns takes images: float in [0, 1], or in 0..255 with a
    `data_range` of 255. It checks them, rounds them to 8 bits and calls the kernel.

    Args:
        name: short name, as "Qabf"; in errors, tables and configurations.
        higher_is_better: whether a better fused image should score higher.
        bounds: least and largest value.
        smallest: shortest side in pixels the metric is defined for.

    Raises:
        ValueError: the name is another module's, or the function takes other arguments.
    """

    def decorate(function: Score) -> Score:
        parameters = signature(function).parameters
        if list(parameters)[:3] != ["fused", "infrared", "visible"]:
            taken = ", ".join(parameters)
            raise ValueError(f"the metric '{name}' takes ({taken}); expected (fused, infrared, visible, ...)")
        if "data_range" in parameters:
            raise ValueError(f"the metric '{name}' takes data_range; planes are always in 0..255: drop it")
        takes_mask = "target_mask" in parameters
        needs_mask = takes_mask and parameters["target_mask"].default is not None

        @wraps(function)
        def score(
            fused: Tensor,
            infrared: Tensor | None = None,
            visible: Tensor | None = None,
            *,
            data_range: float = 1.0,
            **options: Any,
        ) -> Tensor:
            definition.check_options(options)
            if not isinstance(data_range, int | float) or data_range not in EXPECTED:
                raise ValueError(f"{name}: data_range is {data_range!r}; expected 1.0, or 255 for 0..255")
            mask = options.pop("target_mask", None)
            images = {"fused": fused, "infrared": infrared, "visible": visible}
            expected = EXPECTED[data_range]
            return definition.compute(
                images, options, target_mask=mask, data_range=data_range, expected=expected
            )

        option = Parameter("data_range", Parameter.KEYWORD_ONLY, default=1.0, annotation=float)
        ordered = sorted([*parameters.values(), option], key=lambda each: each.kind)
        score.__signature__ = signature(function).replace(parameters=ordered)  # type: ignore[attr-defined]
        score.__doc__ = cleandoc(function.__doc__ or name) + CONTRACT.format(side=smallest)
        definition = Definition(
            name, score, function, higher_is_better, bounds, smallest, takes_mask, needs_mask
        )
        if (known := DEFINITIONS.get(name)) and known.kernel.__module__ != function.__module__:
            raise ValueError(
                f"the metric name '{name}' is taken by {known.kernel.__module__}; choose another"
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
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        found = getattr(mask, "dtype", type(mask).__name__)
        raise ValueError(f"target_mask has type {found}; expected torch.bool, True on targets")
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


@shared
def eight_bit(name: str, image: Tensor, data_range: float, expected: str) -> Tensor:
    """Return an image as the whole numbers 0..255 of an 8-bit file, float64, without gradient.

    Raises:
        ValueError: a number type, NaN or values that do not fit `data_range`.
    """
    image = image.detach()
    floating = image.is_floating_point()
    if image.is_complex() or image.dtype == torch.bool or (data_range == 1 and not floating):
        raise ValueError(f"{name} has type {image.dtype}; expected floating-point values in {expected}")
    if image.numel():
        extremes = (image if floating else image.double()).aminmax()
        low, high = torch.stack(tuple(extremes)).tolist()  # a graphics card is waited for once
        if isnan(low):
            raise ValueError(f"{name} holds NaN; expected numbers in {expected}")
        if low < -ROUNDING * data_range or high > (1 + ROUNDING) * data_range:
            raise ValueError(f"{name} has values from {low:g} to {high:g}; expected {expected}")
        if data_range == 255 and floating and high <= 1 and bool((image != image.round()).any()):
            raise ValueError(f"{name} has fractions from {low:g} to {high:g} alone; expected {expected}")
    return to_levels(image, data_range)
