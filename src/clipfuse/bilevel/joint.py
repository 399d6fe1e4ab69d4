"""One loss, one step: the solver of every plain loss."""

from typing import Any

from torch import Tensor

from clipfuse.bilevel.problem import Backward, BilevelProblem, UpperOptimizer


def _backward(loss: Tensor) -> None:
    loss.backward()


class Joint:
    """Minimises F(x, y) over all that `upper_optimizer` holds, in one gradient step.

    With an empty lower level this is ordinary training. With one, y moves along F like x does if the
    optimiser holds it, and f is never looked at: the baseline that true bi-level solvers must beat.
    """

    def step(
        self, problem: BilevelProblem, upper_optimizer: UpperOptimizer, *, backward: Backward = _backward
    ) -> dict[str, float]:
        """Take one step; there is nothing to log beside the loss itself."""
        upper_optimizer.zero_grad()
        backward(problem.upper_loss(problem.lower_parameters()))
        upper_optimizer.step()
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: this solver has no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Accept what `state_dict` returned."""
