"""The weighted sum of several losses, at most one of them with a lower level."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from clipfuse.losses.base import BilevelLoss, FusionLoss, LossArtifacts, check_loss_output, require
from clipfuse.types import LossInputs, LossOutput


class WeightedSum(FusionLoss):
    """total = sum over parts of weight x that part's total.

    `terms` has the terms of each part as `<part>/<term>`, and `<part>/weighted_total`; the latter add up to
    the total. A part of weight 0 is left out of computation and log.

    Args:
        parts: weight by name, each 0 or more, at least one above 0.
        of: the losses by the same names.

    Attributes:
        weights: the weights above 0 by name.

    Raises:
        ValueError: a weight is negative, infinite or not a number, or a name is in one of the two alone.
    """

    def __init__(self, parts: Mapping[str, float], of: Mapping[str, FusionLoss]) -> None:
        super().__init__()
        require("weighted_sum", 0, **{f"parts.{name}": weight for name, weight in parts.items()})
        self.weights = {name: weight for name, weight in parts.items() if weight}
        self.left_out = [name for name, weight in parts.items() if not weight]
        if not self.weights:
            raise ValueError("weighted_sum loss: no part has a weight above 0, nothing would be trained")
        if unknown := [*(self.weights.keys() - of.keys()), *(of.keys() - parts.keys())]:
            raise ValueError(
                f"weighted_sum loss: '{min(unknown)}' must be named in both parts ({', '.join(parts)}) "
                f"and of ({', '.join(of)})"
            )
        self.of = nn.ModuleDict({name: of[name] for name in self.weights})

    @property
    def parts(self) -> dict[str, FusionLoss]:
        """The losses by name."""
        return cast(dict[str, FusionLoss], dict(self.of.items()))

    def inner(self) -> Mapping[str, FusionLoss]:
        """Return the parts."""
        return {f"of.{name}": part for name, part in self.parts.items()}

    def notices(self, steps: int) -> list[str]:
        """Name the parts that are left out, beside what the others name."""
        absent = [f"{self.place}.parts.{name}=0 leaves this part out" for name in self.left_out]
        return [*absent, *super().notices(steps)]

    def artifacts(self, inputs: LossInputs) -> LossArtifacts | None:
        """Return the artifacts of the parts, each under the name of its part."""
        found = {name: part.artifacts(inputs) for name, part in self.parts.items()}
        given = {name: each for name, each in found.items() if each is not None}
        texts = {f"{name}: {key}": text for name, each in given.items() for key, text in each.texts.items()}
        images = [(f"{name}: {key}", image) for name, each in given.items() for key, image in each.images]
        return LossArtifacts(texts, images) if given else None

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Return the weighted sum."""
        return self._joined({name: part(inputs) for name, part in self.parts.items()})

    def _joined(self, outputs: Mapping[str, LossOutput]) -> LossOutput:
        totals = {name: weight * outputs[name].total for name, weight in self.weights.items()}
        terms: dict[str, Tensor] = {}
        for name, total in totals.items():
            terms |= {f"{name}/{term}": value for term, value in outputs[name].terms.items()}
            terms[f"{name}/weighted_total"] = total.detach()
        return LossOutput(torch.stack(list(totals.values())).sum(), terms)


class BilevelWeightedSum(WeightedSum, BilevelLoss):
    """A weighted sum in which one part has a lower level: F is the sum, f that of the part, without weight.

    The other parts are functions of the network alone, and are computed once per update.

    Args:
        parts: weight by name, as in `WeightedSum`.
        of: the losses by the same names.
        bilevel: name of the part with the lower level.
    """

    def __init__(self, parts: Mapping[str, float], of: Mapping[str, FusionLoss], bilevel: str) -> None:
        super().__init__(parts, of)
        self.bilevel = bilevel
        self.solvers = self._lower.solvers

    @property
    def _lower(self) -> BilevelLoss:
        part = self.of[self.bilevel]
        assert isinstance(part, BilevelLoss)
        return part

    def lower_parameters(self) -> Sequence[Tensor]:
        """Return the lower parameters of the part."""
        return self._lower.lower_parameters()

    def prepare(self, inputs: LossInputs) -> dict[str, Any]:
        """Return the state of the part, and the outputs of the others, by name."""
        return {
            name: self._lower.prepare(inputs) if name == self.bilevel else part(inputs)
            for name, part in self.parts.items()
        }

    def upper_loss(self, state: dict[str, Any], lower: Sequence[Tensor]) -> LossOutput:
        """Return the weighted sum at the given lower values."""
        part = self._lower
        own = check_loss_output(part, part.upper_loss(state[self.bilevel], lower))
        return self._joined({**state, self.bilevel: own})

    def lower_loss(self, state: dict[str, Any], lower: Sequence[Tensor]) -> LossOutput:
        """Return the part's f at the given lower values."""
        return self._lower.lower_loss(state[self.bilevel], lower)


def weighted_sum(parts: Mapping[str, float], of: Mapping[str, FusionLoss]) -> WeightedSum:
    """Return the weighted sum of losses, with a lower level if one of them has one.

    Args:
        parts: weight by name, each 0 or more.
        of: the losses by the same names.

    Raises:
        ValueError: two parts have a lower level, or `WeightedSum` refuses the arguments.
    """
    bilevel = [
        name
        for name, part in of.items()
        if parts.get(name) and isinstance(part, BilevelLoss) and part.lower_parameters()
    ]
    if len(bilevel) > 1:
        raise ValueError(
            f"weighted_sum loss: {' and '.join(bilevel)} each have a lower level; a solver takes one: "
            "leave the others out, or fix their prompts"
        )
    return BilevelWeightedSum(parts, of, bilevel[0]) if bilevel else WeightedSum(parts, of)
