"""One loss, one step: the solver of every plain loss."""

from collections.abc import Mapping
from typing import Any

from clipfuse.bilevel.descent import mean_over_ranks
from clipfuse.bilevel.nested import named, require_weights
from clipfuse.bilevel.problem import BACKWARD, Backward, BilevelProblem, UpperOptimizer


class Joint:
    """Minimises F(x, y) + lower_weight f(x, y) over all that `upper_optimizer` holds, in one gradient step.

    With an empty lower level this is ordinary training, of F alone. With one, x and y descend the same sum
    if the optimiser holds both: the plain method that bi-level solvers must beat.

    Args:
        lower_weight: weight of f, 0 or more.

    Raises:
        ValueError: `lower_weight` is negative or not a number.
    """

    def __init__(self, lower_weight: float = 1.0) -> None:
        require_weights(lower_weight=lower_weight)
        self.lower_weight = lower_weight

    def step(
        self, problem: BilevelProblem, upper_optimizer: UpperOptimizer, *, backward: Backward = BACKWARD
    ) -> Mapping[str, float]:
        """Take one step; the log has F and f if both are minimised, else nothing."""
        upper_optimizer.zero_grad()
        lower = problem.lower_parameters()
        log: Mapping[str, float] = {}
        total = problem.upper_loss(lower)
        if self.lower_weight and lower:
            f = problem.lower_loss(lower)
            log = named(("F", "f"), mean_over_ranks([total.detach(), f.detach()]))
            total = total + self.lower_weight * f
        backward(total)
        upper_optimizer.step()
        return log

    def state_dict(self) -> dict[str, Any]:
        """Return an empty dictionary: this solver has no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: this solver has no state."""
