"""The reverse nesting: y learns from what x becomes under it, through a few steps of x."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from clipfuse.bilevel.alternate import Alternate
from clipfuse.bilevel.descent import LowerOptimizer, Objective, gradients, mean_in_graph, mean_over_ranks
from clipfuse.bilevel.nested import require_weights
from clipfuse.bilevel.problem import BACKWARD, Backward, BilevelProblem, MovableProblem, UpperOptimizer

_NUDGE = 0.01
_MARKED = once_differentiable(lambda ctx: None).__code__
_ONCE = (
    "network or loss cannot be differentiated twice, as solver=unrolled does ({}); take "
    "solver.first_order=true"
)


class OnceDifferentiableError(ValueError):
    """A network or loss has no second derivative, which exact steps need; the message names the operation."""


class Unrolled(Alternate):
    """y takes a step down f(x'(y), y), where x'(y) is x after `steps` steps down F(., y); then x descends F.

    min_y f(x*(y), y) subject to x*(y) in argmin_x F(x, y): x, the network, is here the lower level, and y,
    the parameters of a loss, the upper one. x*(y) is replaced by x'(y), plain gradient steps of a given
    rate from the current x, through which the gradient of f is exact: f_y + x'_y^T f_x, with x'_y = -rate
    F_xy for one step. Source: the meta-learning of ReFusion (Bai et al., IJCV 2024) and TDFusion (Bai et
    al., CVPR 2025), after MAML (Finn et al., ICML 2017), with one step. As released, x' serves y alone: x
    itself then moves with its own optimiser. Own design: both kinds of step alternate every few updates,
    not by epochs, and y includes what judges x', such as a task network, which the release trains in a step
    of its own.

    As a step of x is small, f_x' is close to f_x, and x'_y falls with the rate; an optimiser of y that
    divides by the size of the gradient, such as Adam, makes the step of y independent of the rate, as the
    releases do by another division.

    With `held_out` the steps of x see every other sample of a batch, beginning with the first, and f the
    rest of it, as in MAML; a batch of one sample serves both. Under `torch.distributed` the steps of x are
    those on the samples of all ranks, and their means are part of the graph.

    Logged: F, f, both at the x and y of the update.

    Args:
        optimizer: makes the optimiser of y, as in `Descent`.
        steps: steps of x that y looks ahead, 1 or more. Each keeps a graph of the network.
        rate: their learning rate, above 0; None: that of the optimiser of x at the time.
        every: updates of x per step of y, 1 or more; TDFusion takes 200 steps of y per pass of some 1,000.
        held_out: whether f is that of other samples than the steps of x.
        first_order: whether F_xy is multiplied by a central difference of F_y, as in DARTS (Liu et al., ICLR
            2019), which needs no second derivatives and less memory; for `steps=1`.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        optimizer: LowerOptimizer,
        *,
        steps: int = 1,
        rate: float | None = None,
        every: int = 5,
        held_out: bool = True,
        first_order: bool = False,
    ) -> None:
        super().__init__(optimizer, steps=steps, every=every)
        if rate is not None:
            require_weights(rate=rate)
            if rate == 0:
                raise ValueError(
                    "rate is 0; expected a learning rate above 0, or null for that of the network"
                )
        if first_order and steps > 1:
            raise ValueError(
                f"first_order differentiates one step of the network, and steps is {steps}; take 1"
            )
        self.rate, self.held_out, self.first_order = rate, held_out, first_order
        self._rate, self._twice = 0.0, False

    def step(
        self, problem: BilevelProblem, upper_optimizer: UpperOptimizer, *, backward: Backward = BACKWARD
    ) -> Mapping[str, float]:
        """Take one step and return the log by name, means over the ranks.

        Raises:
            ValueError: the problem has no lower level, or cannot be evaluated at other values of x.
        """
        if not hasattr(problem, "at"):
            raise ValueError(
                f"Unrolled needs a MovableProblem; {type(problem).__name__} has no function 'at'"
            )
        self._rate = learning_rate(upper_optimizer) if self.rate is None else self.rate
        return super().step(problem, upper_optimizer, backward=backward)

    def _solve(self, problem: BilevelProblem, lower: Sequence[Tensor], k: int) -> None:
        ahead = self._difference if self.first_order else self._exact
        try:
            self._descend(problem, lower, ahead(cast(MovableProblem, problem)), 1)
        except RuntimeError as error:
            text = f"{error}".splitlines()[0]
            if self.first_order or "derivative" not in text or "not implemented" not in text:
                raise
            raise OnceDifferentiableError(_ONCE.format(text)) from error

    def _parts(self) -> tuple[slice, slice]:
        return (slice(0, None, 2), slice(1, None, 2)) if self.held_out else (slice(None), slice(None))

    def _exact(self, problem: MovableProblem) -> Objective:
        learnt, judged = self._parts()
        start = [value.detach().requires_grad_() for value in problem.upper_parameters()]

        def objective(y: Sequence[Tensor]) -> Tensor:
            x = start
            for _ in range(self.steps):
                loss = problem.at(x, learnt).upper_loss(y)
                slopes = gradients(loss, x, again=True)
                if not self._twice:
                    self._twice = require_graph(loss, slopes, self.steps)
                means = mean_in_graph(slopes)
                x = [value - self._rate * slope for value, slope in zip(x, means, strict=True)]
            return problem.at(x, judged).lower_loss(y)

        return objective

    def _difference(self, problem: MovableProblem) -> Objective:
        """Return a function whose gradient is that of `_exact` for one step, up to the difference's error."""
        learnt, judged = self._parts()
        start = [value.detach().requires_grad_() for value in problem.upper_parameters()]

        def objective(y: Sequence[Tensor]) -> Tensor:
            slopes = mean_over_ranks(gradients(problem.at(start, learnt).upper_loss(y), start))
            x = [
                (value - self._rate * slope).detach().requires_grad_()
                for value, slope in zip(start, slopes, strict=True)
            ]
            found = gradients(problem.at(x, judged).lower_loss(y), [*x, *y])
            direction = mean_over_ranks(found[: len(x)])
            direct = [(slope * value).sum() for slope, value in zip(found[len(x) :], y, strict=True)]
            total = torch.stack(direct).sum()
            length = torch.cat([each.flatten() for each in direction]).norm()
            nudge = _NUDGE / length.clamp(min=torch.finfo(length.dtype).tiny)
            if float(length) == 0:
                return total
            sides = [
                problem.at(
                    [
                        (value + sign * nudge * each).detach()
                        for value, each in zip(start, direction, strict=True)
                    ],
                    learnt,
                ).upper_loss(y)
                for sign in (1, -1)
            ]
            return total - self._rate * (sides[0] - sides[1]) / (2 * nudge)

        return objective


def require_graph(loss: Tensor, slopes: Sequence[Tensor], steps: int) -> bool:
    """Return True if the gradients of a loss can be differentiated again.

    What torch marks as `once_differentiable` is silent otherwise. It ends the graph of its gradient at a
    node that raises when a gradient comes by, which none does that is taken with respect to what lies
    behind it; and where the loss is linear in its result, its gradient counts as constant. The latter
    matters from the second step on.

    Raises:
        OnceDifferentiableError: the loss has such a function.
    """
    nodes = [slope.grad_fn for slope in slopes] + ([loss.grad_fn] if steps > 1 else [])
    seen: set[Any] = set()
    while nodes:
        node = nodes.pop()
        if node in seen or node is None:
            continue
        seen.add(node)
        backward = getattr(getattr(node, "_forward_cls", None), "backward", None)
        marked = getattr(backward, "__code__", None) is _MARKED and steps > 1
        if marked or node.name().endswith("Error"):
            raise OnceDifferentiableError(_ONCE.format("a function is marked once_differentiable"))
        nodes += [each for each, _ in node.next_functions]
    return True


def learning_rate(optimizer: UpperOptimizer) -> float:
    """Return the learning rate of the optimiser of x at this time."""
    rate = getattr(optimizer, "learning_rate", None)
    return float(optimizer.param_groups[0]["lr"] if rate is None else rate)  # type: ignore[attr-defined]
