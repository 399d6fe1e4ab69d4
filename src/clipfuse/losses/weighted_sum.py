"""The weighted sum of several losses, at most one of them with a lower level."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from clipfuse.losses.base import (
    BilevelLoss,
    FusionLoss,
    LossArtifacts,
    ParameterGroup,
    check_loss_output,
    require,
)
from clipfuse.ops.balance import GradientNormWeights, UncertaintyWeights
from clipfuse.types import LossInputs, LossOutput

Balance = Literal["none", "uncertainty", "gradnorm"]


class WeightedSum(FusionLoss):
    """total = sum over parts of weight x that part's total.

    `terms` has the terms of each part as `<part>/<term>`, and `<part>/weighted_total`; the latter add up to
    the total. A part of weight 0 is left out of computation and log.

    The weights can learn: `uncertainty` multiplies each by exp(-s), with a learnt s that is added to the
    total (`clipfuse.ops.balance.UncertaintyWeights`, Kendall et al., CVPR 2018); `gradnorm` gives the parts
    gradients of norms in proportion to `parts`, and greater ones to parts that fall slowly
    (`clipfuse.ops.balance.GradientNormWeights`, Chen et al., ICML 2018). Then `terms` has `weight/<part>`,
    and for `uncertainty` the sum of s as `regularization`.

    Args:
        parts: weight by name, each 0 or more, at least one above 0.
        of: the losses by the same names.
        balance: `none`: the weights stay; `uncertainty`; or `gradnorm`.
        alpha: of `gradnorm`, 0 or more: how much more a part gets that falls slowly.
        memory: of `gradnorm`, in [0, 1): share of the running means that stays in each update.
        lr: learning rate of the s of `uncertainty`, above 0; they have neither weight decay nor clipping.

    Attributes:
        weights: the weights above 0 by name.

    Raises:
        ValueError: a number is out of its range, a name is in one of the two alone, or `balance` is none of
            the three.
    """

    def __init__(
        self,
        parts: Mapping[str, float],
        of: Mapping[str, FusionLoss],
        balance: Balance = "none",
        alpha: float = 1.5,
        memory: float = 0.9,
        lr: float = 0.02,
    ) -> None:
        super().__init__()
        require("weighted_sum", 0, alpha=alpha, memory=memory)
        if not 0 < lr < math.inf:
            raise ValueError(f"weighted_sum loss: lr is {lr}; expected above 0")
        if memory >= 1 or balance not in ("none", "uncertainty", "gradnorm"):
            raise ValueError(
                f"weighted_sum loss: memory is {memory} and balance {balance!r}; expected a share below 1, "
                "and none, uncertainty or gradnorm"
            )
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
        self.balance, self.alpha, self.memory, self.lr = balance, alpha, memory, lr
        self.learnt: UncertaintyWeights | GradientNormWeights | None = None
        if balance == "uncertainty":
            self.learnt = UncertaintyWeights(self.weights)
        elif balance == "gradnorm":
            self.learnt = GradientNormWeights(self.weights, alpha, memory)

    @property
    def parts(self) -> dict[str, FusionLoss]:
        """The losses by name."""
        return cast(dict[str, FusionLoss], dict(self.of.items()))

    def inner(self) -> Mapping[str, FusionLoss]:
        """Return the parts."""
        return {f"of.{name}": part for name, part in self.parts.items()}

    def parameter_groups(self) -> Mapping[str, ParameterGroup]:
        """Let the s of `uncertainty` learn at a rate of their own."""
        own = {"learnt": ParameterGroup(self.lr, weight_decay=0.0, gradient_clip=math.inf)}
        return {**super().parameter_groups(), **(own if self.balance == "uncertainty" else {})}

    def notices(self, steps: int) -> list[str]:
        """Name the parts that are left out, beside what the others name."""
        absent = [f"{self.place}.parts.{name}=0 leaves this part out" for name in self.left_out]
        idle = [] if self.balance == "gradnorm" else self.unused("balance is not gradnorm", "alpha", "memory")
        idle += [] if self.balance == "uncertainty" else self.unused("balance is not uncertainty", "lr")
        if self.balance != "none" and len(self.weights) == 1:
            idle.append(f"{self.place}.balance={self.balance}: there is one part alone, nothing to balance")
        return [*absent, *idle, *super().notices(steps)]

    def artifacts(self, inputs: LossInputs) -> LossArtifacts | None:
        """Return the artifacts of the parts, each under the name of its part."""
        found = {name: part.artifacts(inputs) for name, part in self.parts.items()}
        given = {name: each for name, each in found.items() if each is not None}
        texts = {f"{name}: {key}": text for name, each in given.items() for key, text in each.texts.items()}
        images = [(f"{name}: {key}", image) for name, each in given.items() for key, image in each.images]
        return LossArtifacts(texts, images) if given else None

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Return the weighted sum."""
        return self._joined({name: part(inputs) for name, part in self.parts.items()}, inputs)

    def _joined(self, outputs: Mapping[str, LossOutput], inputs: LossInputs) -> LossOutput:
        weights: Mapping[str, float | Tensor] = self.weights
        if self.learnt is not None:
            given = self.learnt([outputs[name].total for name in self.weights], inputs.fused, inputs.step)
            weights = dict(zip(self.weights, given.unbind(), strict=True))
        totals = {name: weight * outputs[name].total for name, weight in weights.items()}
        terms: dict[str, Tensor] = {}
        for name, total in totals.items():
            terms |= {f"{name}/{term}": value for term, value in outputs[name].terms.items()}
            terms[f"{name}/weighted_total"] = total.detach()
        images = {f"{name}/{key}": image for name in totals for key, image in outputs[name].images.items()}
        whole = torch.stack(list(totals.values())).sum()
        if self.learnt is not None:
            terms |= {f"weight/{name}": weight.detach() for name, weight in weights.items()}  # type: ignore[union-attr]
            if isinstance(self.learnt, UncertaintyWeights):
                whole = whole + self.learnt.regularization()
                terms["regularization"] = self.learnt.regularization().detach()
        return LossOutput(whole, terms, images)


class BilevelWeightedSum(WeightedSum, BilevelLoss):
    """A weighted sum in which one part has a lower level: F is the sum, f that of the part, without weight.

    The other parts are functions of the network alone, and are computed once per update.

    Args:
        parts: weight by name, as in `WeightedSum`.
        of: the losses by the same names.
        bilevel: name of the part with the lower level.
        **balanced: the other arguments of `WeightedSum`.
    """

    def __init__(
        self,
        parts: Mapping[str, float],
        of: Mapping[str, FusionLoss],
        bilevel: str,
        **balanced: Any,
    ) -> None:
        super().__init__(parts, of, **balanced)
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
        """Return the state of the part, and the outputs of the others, by name; and the inputs."""
        found = {
            name: self._lower.prepare(inputs) if name == self.bilevel else part(inputs)
            for name, part in self.parts.items()
        }
        return {"": inputs, **found}

    def upper_loss(self, state: dict[str, Any], lower: Sequence[Tensor]) -> LossOutput:
        """Return the weighted sum at the given lower values."""
        part = self._lower
        own = check_loss_output(part, part.upper_loss(state[self.bilevel], lower))
        return self._joined({**state, self.bilevel: own}, state[""])

    def lower_loss(self, state: dict[str, Any], lower: Sequence[Tensor]) -> LossOutput:
        """Return the part's f at the given lower values."""
        return self._lower.lower_loss(state[self.bilevel], lower)


def weighted_sum(
    parts: Mapping[str, float],
    of: Mapping[str, FusionLoss],
    balance: Balance = "none",
    alpha: float = 1.5,
    memory: float = 0.9,
    lr: float = 0.02,
) -> WeightedSum:
    """Return the weighted sum of losses, with a lower level if one of them has one.

    Args:
        parts: weight by name, each 0 or more.
        of: the losses by the same names.
        balance: whether and how the weights learn, as in `WeightedSum`.
        alpha: of `gradnorm`.
        memory: of `gradnorm`.
        lr: of `uncertainty`.

    Raises:
        ValueError: two parts have a lower level, or `WeightedSum` refuses the arguments.
    """
    balanced: dict[str, Any] = {"balance": balance, "alpha": alpha, "memory": memory, "lr": lr}
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
    if bilevel:
        return BilevelWeightedSum(parts, of, bilevel[0], **balanced)
    return WeightedSum(parts, of, **balanced)
