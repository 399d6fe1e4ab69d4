"""What a solver is given and what it offers.

The problem is min_x F(x, y) subject to y in argmin_y f(x, y). The upper variable x is closed over:
a solver sees it only through the optimiser that steps it.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

Backward = Callable[[Tensor], None]


class BilevelProblem(Protocol):
    """One step's problem; `lower` always stands for values of y."""

    def lower_parameters(self) -> Sequence[Tensor]:
        """Return y; empty for a problem of one level."""

    def upper_loss(self, lower: Sequence[Tensor]) -> Tensor:
        """Return the scalar F(x, lower), differentiable in x and in `lower`."""

    def lower_loss(self, lower: Sequence[Tensor]) -> Tensor:
        """Return the scalar f(x, lower), differentiable in x and in `lower`."""


class UpperOptimizer(Protocol):
    """The part of `torch.optim.Optimizer` a solver uses on x.

    One that accumulates gradients over micro-batches also has an integer `micro_batch`, which is 0 in the
    first of each update; solvers then move the lower level once per update.
    """

    def zero_grad(self) -> None:
        """Forget the gradients of x."""

    def step(self) -> None:
        """Move x along its gradients."""


class Solver(Protocol):
    """One method moves x (and y) by one step; its state lives across steps and in checkpoints."""

    def step(
        self, problem: BilevelProblem, upper_optimizer: UpperOptimizer, *, backward: Backward
    ) -> dict[str, float]:
        """Take one step and return what is worth logging, by name."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs, in plain types and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
