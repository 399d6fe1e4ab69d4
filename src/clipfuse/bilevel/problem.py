"""The interfaces of a bi-level problem, of the optimiser of x and of a solver.

The problem is min_x F(x, y) subject to y in argmin_y f(x, y). The upper variable x is closed over:
a solver reaches it only through the optimiser of x.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

Backward = Callable[[Tensor], None]
BACKWARD: Backward = Tensor.backward


class BilevelProblem(Protocol):
    """The problem of one step; `lower` are values of y.

    It may also have a function `check_finite` of the gradients of y, called before each step of y, which
    raises where they are not finite: y then stays what it was before the solve.
    """

    def lower_parameters(self) -> Sequence[Tensor]:
        """Return y; empty for a problem of one level."""

    def upper_loss(self, lower: Sequence[Tensor]) -> Tensor:
        """Return the scalar F(x, lower), differentiable in x and in `lower`."""

    def lower_loss(self, lower: Sequence[Tensor]) -> Tensor:
        """Return the scalar f(x, lower), differentiable in x and in `lower`."""


class MovableProblem(BilevelProblem, Protocol):
    """A problem that can be evaluated at other values of x, as `Unrolled` needs."""

    def upper_parameters(self) -> Sequence[Tensor]:
        """Return the values of x, in a fixed order."""

    def at(self, upper: Sequence[Tensor], samples: slice) -> BilevelProblem:
        """Return the same problem on some of its samples at values of x, differentiable in them.

        A part without any sample is the whole.
        """


class UpperOptimizer(Protocol):
    """The part of `torch.optim.Optimizer` that a solver uses on x.

    One that accumulates gradients over micro-batches also has an integer `micro_batch`, which is 0 in the
    first of each update; solvers then move the lower level once per update. Its learning rate is its
    attribute `learning_rate` or, as in torch, that of its first group.
    """

    def zero_grad(self) -> None:
        """Clear the gradients of x."""

    def step(self) -> None:
        """Move x along its gradients."""


class Solver(Protocol):
    """Moves x (and y) step by step; its state is kept across steps and in checkpoints."""

    def step(
        self, problem: BilevelProblem, upper_optimizer: UpperOptimizer, *, backward: Backward
    ) -> Mapping[str, float]:
        """Take one step and return the log by name, which may be read from the device when it is used."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs, in plain types and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
