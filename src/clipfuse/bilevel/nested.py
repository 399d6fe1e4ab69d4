"""What all solvers with a lower level share: when y moves, and the step of x."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from clipfuse.bilevel.descent import Descent, LowerOptimizer, Objective, copy_into, many_ranks
from clipfuse.bilevel.problem import BACKWARD, Backward, BilevelProblem, UpperOptimizer


class NestedSolver(ABC):
    """One update: the lower level is solved, then x takes one step with y held constant.

    Updates are counted from 0 in k; all schedules depend on k alone. The lower level moves in the updates
    with k divisible by `every`. If the upper optimiser accumulates gradients (it has an attribute
    `micro_batch`, 0 at the first of an update), the lower level moves with the first micro-batch and the
    others use the result: the accumulated gradient of x belongs to one y, and k counts updates whatever
    their size (own design). Save and resume between updates only.

    Under `torch.distributed` gradients of the lower level are averaged over the ranks, and y starts with
    the values of rank 0: y has the same bits on all ranks. The caller averages the gradient of x.

    Args:
        optimizer: makes the optimiser of y, as in `Descent`.
        every: updates per solve of the lower level, 1 or more.
        tolerance: relative change of the objective at which a descent of the lower level ends before its
            last step, as in `Descent.minimise`, 0 or more; 0: never.

    Raises:
        ValueError: `every` below 1, or `tolerance` below 0.
    """

    def __init__(self, optimizer: LowerOptimizer, every: int, tolerance: float = 0.0) -> None:
        require_steps(every=every)
        require_weights(tolerance=tolerance)
        self.every, self.tolerance = every, tolerance
        self._taken: dict[str, float] = {}
        self._updates = 0
        self._started = False
        self._y = Descent(optimizer)

    def step(
        self, problem: BilevelProblem, upper_optimizer: UpperOptimizer, *, backward: Backward = BACKWARD
    ) -> dict[str, float]:
        """Take one step and return the log by name, means over the ranks.

        Raises:
            ValueError: the problem has no lower level.
        """
        lower = problem.lower_parameters()
        if not lower:
            raise ValueError(
                f"{type(self).__name__} needs a lower level, and this problem has no lower parameters; "
                "take Joint"
            )
        first = getattr(upper_optimizer, "micro_batch", 0) == 0
        self._updates += first
        k = max(self._updates - 1, 0)
        if not self._started:
            self._start(lower)
            self._started = True
        solved = first and k % self.every == 0
        if solved:
            self._solve(problem, lower, k)
        upper_optimizer.zero_grad()
        total, log = self._upper(problem, [value.detach() for value in lower], k, solved)
        backward(total)
        upper_optimizer.step()
        return log

    def _start(self, lower: Sequence[Tensor]) -> None:
        if many_ranks():
            for value in lower:
                distributed.broadcast(value.detach(), 0)

    def _descend(
        self, problem: BilevelProblem, lower: Sequence[Tensor], objective: Objective, steps: int
    ) -> int:
        """Move `lower` down the objective, in place, and return the steps taken."""
        self._y.move_to(lower)
        taken = self._y.minimise(objective, steps, getattr(problem, "check_finite", None), self.tolerance)
        copy_into(lower, self._y.values)
        return taken

    @abstractmethod
    def _solve(self, problem: BilevelProblem, lower: Sequence[Tensor], k: int) -> None:
        """Move `lower` in place."""

    @abstractmethod
    def _upper(
        self, problem: BilevelProblem, y: Sequence[Tensor], k: int, solved: bool
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the scalar whose gradient moves x, and the log; the last upper loss evaluated is at y."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs but y, in plain types and copies of tensors."""
        return {"updates": self._updates, "y": self._y.state_dict(), "taken": dict(self._taken)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the owner of y restores y."""
        self._updates = state["updates"]
        self._started = False
        self._taken = dict(state.get("taken", {}))  # older states have none
        self._y.load_state_dict(state["y"])


def require_steps(**values: int) -> None:
    """Refuse, by name, a number of steps below 1.

    Raises:
        ValueError: names the first of them.
    """
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; expected 1 or more")


def require_weights(**values: float) -> None:
    """Refuse, by name, a weight that is negative or not a number.

    Raises:
        ValueError: names the first of them.
    """
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} is {value}; expected 0 or more")


def named(names: Sequence[str], scalars: Sequence[Tensor]) -> dict[str, float]:
    """Return the scalars as floats by name; one copy from the device."""
    return dict(zip(names, torch.stack([scalar.detach() for scalar in scalars]).tolist(), strict=True))
