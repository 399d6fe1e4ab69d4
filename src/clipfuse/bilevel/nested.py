"""What all solvers with a lower level share: when y moves, and the step of x."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
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
    ) -> Mapping[str, float]:
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
    ) -> tuple[Tensor, Mapping[str, float]]:
        """Return the scalar whose gradient moves x, and the log; the last upper loss evaluated is at y."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs but y, in plain types and copies of tensors."""
        return {"updates": self._updates, "y": self._y.state_dict(), "taken": dict(self._taken)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the owner of y restores y."""
        self._updates = state["updates"]
        self._started = False
        self._taken = dict.fromkeys(self._taken, 0) | state.get("taken", {})  # older states have none
        self._y.load_state_dict(state["y"])


def require_steps(**values: int) -> None:
    """Refuse, by name, a number of steps below 1.

    Raises:
        ValueError: names the first of them.
    """
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; expected 1 or more")


def require_delay(delay: int) -> None:
    """Refuse a negative number of updates before a schedule begins.

    Raises:
        ValueError: it is below 0.
    """
    if delay < 0:
        raise ValueError(f"delay is {delay}; expected 0 or more updates")


def require_weights(**values: float) -> None:
    """Refuse, by name, a weight that is negative or not a number.

    Raises:
        ValueError: names the first of them.
    """
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} is {value}; expected 0 or more")


class Unread(Mapping[str, float]):
    """Numbers by name that lie on a device until the first of them is read, then all of them are.

    Whoever logs every tenth update makes the host wait for a GPU every tenth update.

    Args:
        names: of the scalars on the device.
        scalars: one per name.
        known: numbers that are on the host.
    """

    def __init__(
        self, names: Sequence[str], scalars: Sequence[Tensor], known: Mapping[str, float] | None = None
    ) -> None:
        self._names, self._known = tuple(names), dict(known or {})
        self._found: Tensor | None = torch.stack([scalar.detach() for scalar in scalars])

    def _read(self) -> dict[str, float]:
        if self._found is not None:
            read = dict(zip(self._names, self._found.tolist(), strict=True))
            self._known, self._found = read | self._known, None
        return self._known

    def __getitem__(self, name: str) -> float:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __or__(self, known: Mapping[str, float]) -> "Unread":
        """Return this with further numbers, still unread."""
        other = copy(self)
        other._known = {**self._known, **known}
        return other

    def __repr__(self) -> str:
        return repr(self._read())


def named(names: Sequence[str], scalars: Sequence[Tensor]) -> Unread:
    """Return the scalars by name; they are copied from the device when the first of them is read."""
    return Unread(names, scalars)
