"""Alternation: y descends its own loss, x descends its own."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from clipfuse.bilevel.descent import LowerOptimizer, mean_over_ranks
from clipfuse.bilevel.nested import NestedSolver, named, require_steps
from clipfuse.bilevel.problem import BilevelProblem


class Alternate(NestedSolver):
    """y takes steps down f(x, y), then x one step down F(x, y) with y constant.

    The scheme of CLIP-LIT (Liang et al., ICCV 2023), and what `ValuePenalty` becomes for y = z. The step of x
    ignores that y depends on x: at a fixed point dF/dx = 0 holds with y constant, which is in general no
    solution of the bi-level problem.

    Logged: F, f, and steps, those of y in the last solve.

    Args:
        optimizer: makes the optimiser of y, as in `Descent`.
        steps: steps of y per solve, 1 or more.
        every: updates per solve, 1 or more.
        tolerance: relative change of f at which a solve ends before its last step, 0 or more; 0: never.

    Raises:
        ValueError: `steps` or `every` below 1, or `tolerance` below 0.
    """

    def __init__(
        self, optimizer: LowerOptimizer, *, steps: int = 5, every: int = 10, tolerance: float = 0.0
    ) -> None:
        super().__init__(optimizer, every, tolerance)
        require_steps(steps=steps)
        self.steps = steps

    def _solve(self, problem: BilevelProblem, lower: Sequence[Tensor], k: int) -> None:
        self._taken["steps"] = self._descend(problem, lower, problem.lower_loss, self.steps)

    def _upper(
        self, problem: BilevelProblem, y: Sequence[Tensor], k: int, solved: bool
    ) -> tuple[Tensor, Mapping[str, float]]:
        with torch.no_grad():
            f = problem.lower_loss(y)
        total = problem.upper_loss(y)
        return total, named(("F", "f"), mean_over_ranks([total.detach(), f])) | self._taken
