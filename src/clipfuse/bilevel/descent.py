"""Descent of the lower level: copies of y, an optimiser of their own, the same values on all ranks."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed

LowerOptimizer = Callable[[list[Tensor]], torch.optim.Optimizer]
Check = Callable[[Sequence[Tensor]], Any]
Objective = Callable[[Sequence[Tensor]], Tensor]


def many_ranks() -> bool:
    """Return whether this process is one of several ranks."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def mean_over_ranks(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the mean of each tensor over the ranks, with the same bits on all of them; one collective."""
    if not many_ranks():
        return list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    parts = (flat / distributed.get_world_size()).split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


class _MeanOverRanks(torch.autograd.Function):
    """`mean_over_ranks` of one tensor, whose own gradient is a mean over the ranks again."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor) -> Tensor:
        return mean_over_ranks([flat])[0]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return mean_over_ranks([upstream.contiguous()])[0]


def mean_in_graph(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return what `mean_over_ranks` does, differentiable.

    If each rank takes the gradient of its own share of a loss, the mean of these gradients over the ranks is
    that of the whole loss. All ranks must take the gradient, at the same place.
    """
    if not many_ranks():
        return list(tensors)
    flat: Tensor = _MeanOverRanks.apply(torch.cat([tensor.flatten() for tensor in tensors]))
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def gradients(loss: Tensor, values: Sequence[Tensor], again: bool = False) -> list[Tensor]:
    """Return d loss / d value for each value, zero where the loss ignores it; touches no `.grad`.

    Args:
        loss: a scalar.
        values: tensors that require a gradient.
        again: whether the result can be differentiated again.
    """
    if not loss.requires_grad:
        return [torch.zeros_like(value) for value in values]
    found = torch.autograd.grad(loss, values, allow_unused=True, create_graph=again)
    return [
        torch.zeros_like(value) if gradient is None else gradient
        for gradient, value in zip(found, values, strict=True)
    ]


def squared_distance(values: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Return the scalar |values - others|^2 over all tensors together."""
    return torch.stack([(a - b).square().sum() for a, b in zip(values, others, strict=True)]).sum()


class Descent:
    """A value of the lower level and the optimiser that moves it.

    It works on copies: the parameters of the problem keep their `requires_grad` and `.grad`, and only
    gradients with respect to the copies are computed, so that no gradient is left on the upper level.
    The optimiser's moments are kept from one solve to the next.

    Args:
        optimizer: copies -> optimiser, such as `partial(torch.optim.SGD, lr=0.5)`; its step must need
            no closure.

    Attributes:
        values: the copies; empty before the first `move_to`.

    Raises:
        ValueError: the optimiser cannot be made, or needs a closure.
    """

    def __init__(self, optimizer: LowerOptimizer) -> None:
        probe = torch.zeros(1, requires_grad=True)
        probe.grad = torch.zeros(1)
        try:
            optimizer([probe]).step()
        except (TypeError, ValueError) as error:
            raise ValueError(f"the optimiser of the lower level cannot be used: {error}") from error
        self.values: list[Tensor] = []
        self._make = optimizer
        self._optimizer: torch.optim.Optimizer | None = None
        self._loaded: dict[str, Any] | None = None

    def move_to(self, values: Sequence[Tensor]) -> None:
        """Set the current values; the first call also creates the optimiser.

        Raises:
            ValueError: the shapes differ from those of the first call.
        """
        if self._optimizer is None:
            self.values = [value.detach().clone().requires_grad_() for value in values]
            self._optimizer = self._make(self.values)
            if self._loaded is not None:
                self._optimizer.load_state_dict(self._loaded)
            return
        mine, given = ([tuple(value.shape) for value in each] for each in (self.values, values))
        if mine != given:
            raise ValueError(f"the lower parameters have shapes {given}; this solver began with {mine}")
        copy_into(self.values, values)

    def minimise(
        self, objective: Objective, steps: int, check: Check | None = None, tolerance: float = 0.0
    ) -> int:
        """Step down the mean of `objective` over the ranks until it hardly changes; return the steps taken.

        The size of the change counts, so that a first step in the direction of old moments ends nothing. All
        ranks take the same number of steps.

        Args:
            objective: values -> scalar.
            steps: the most steps.
            check: sees each gradient before its step, and may refuse it by an error.
            tolerance: it is done where a step changed the objective by this part of its size or less; 0: all
                `steps`, without a look at the objective. It costs a wait for the device per step, and one
                evaluation without gradient if it is done early.
        """
        assert self._optimizer is not None
        taken, last = 0, math.inf
        for _ in range(steps):
            loss = objective(self.values)
            if tolerance:
                now = float(mean_over_ranks([loss.detach().reshape(1)])[0])
                if abs(last - now) <= tolerance * abs(now):
                    break
                last = now
            taken += 1
            slopes = mean_over_ranks(gradients(loss, self.values))
            if check is not None:
                check(slopes)
            for value, slope in zip(self.values, slopes, strict=True):
                value.grad = slope
            self._optimizer.step()
            # Fused optimisers leave the version as it was; caches by version must see the new values.
            torch.autograd.graph.increment_version(self.values)
        self._optimizer.zero_grad()
        return taken

    def state_dict(self) -> dict[str, Any] | None:
        """Return a copy of the optimiser's state; None before the first `move_to`."""
        return copy.deepcopy(self._loaded if self._optimizer is None else self._optimizer.state_dict())

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Forget the values; the next `move_to` creates an optimiser with this state."""
        self.values, self._optimizer, self._loaded = [], None, copy.deepcopy(state)


@torch.no_grad()
def copy_into(targets: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Overwrite the targets in place; their `requires_grad` stays."""
    for target, value in zip(targets, values, strict=True):
        target.copy_(value)
