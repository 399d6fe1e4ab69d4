"""Bi-level optimisation by the Moreau envelope of the lower level: one loop, first derivatives alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from clipfuse.bilevel.descent import Descent, LowerOptimizer, mean_over_ranks, squared_distance
from clipfuse.bilevel.nested import NestedSolver, named, require_delay, require_steps, require_weights
from clipfuse.bilevel.problem import BilevelProblem


class Meha(NestedSolver):
    """Minimises F(x, y) + c_k (f(x, y) - v(x, y)), v the Moreau envelope of f.

    v(x, y) = min_theta f(x, theta) + |theta - y|^2 / (2 gamma). The Moreau envelope based, Hessian-free
    algorithm (Liu et al., ICML 2024, arXiv 2405.09927): one loop, first derivatives alone. v <= f everywhere,
    and v = f where y is a minimiser of f: the penalty needs a minimiser near y, not one over all z, as that
    of `ValuePenalty` does. For gamma below 1 / rho, where f + rho |y|^2 / 2 is convex, the inner problem has
    one solution although f is not convex.

    Update k takes one step each, or `steps` of the first two in turn:

    1. y down f(x, y) - |y - theta|^2 / (2 gamma) + F(x, y) / c_k;
    2. theta down f(x, theta) + |theta - y|^2 / (2 gamma);
    3. x down F(x, y) + c_k (f(x, y) - f(x, theta)), y and theta constant.

    with c_k = c0 (1 + k)^power, where k counts from `delay` on. In updates without a solve (`every`, later
    micro-batches) only step 3 is done. theta starts as y. The paper moves theta, x, y in this order: the same
    cycle, begun with y here, as solvers move the lower level first. Its rates hold for power < 1/2 and gamma
    below 1 / (2 rho). The paper divides the objective of x by c_k: its steps become shorter. Here F keeps its
    weight, as under the other solvers, so that Adam's moments and the clipping of gradients do not follow a
    scale that fades (own design).

    Where f has the curvature H in y, f - v has gamma H^2 / (1 + gamma H): the bias of a weight c is that of
    the value function's linear penalty at c gamma H / (1 + gamma H). With gamma above 1 / rho, y and theta
    can settle in different basins of f, and never meet. y moves uphill along |y - theta|^2: where
    gamma H < 1, its steps must be shorter than those of theta.

    Logged, means over the ranks: F, f, f_theta, residual (f - v, 0 or more once theta has settled), c, and
    distance, the length of y - theta.

    Args:
        optimizer: makes the optimisers of y and of theta, as in `Descent`.
        steps: steps of y and of theta per solve, 1 or more; the paper takes 1.
        every: updates per solve of the lower level, 1 or more; the paper takes 1.
        delay: updates before c_k begins to grow, 0 or more; for a loss whose first stage is a simpler one.
        gamma: the envelope's parameter, above 0; a large one makes v the value function.
        c0: first weight of the penalty, above 0.
        power: growth of the weight, 0 or more.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        optimizer: LowerOptimizer,
        *,
        steps: int = 1,
        every: int = 1,
        delay: int = 0,
        gamma: float = 1.0,
        c0: float = 1.0,
        power: float = 0.25,
    ) -> None:
        super().__init__(optimizer, every)
        require_steps(steps=steps)
        require_weights(power=power)
        for name, value in {"gamma": gamma, "c0": c0}.items():
            if not value > 0:
                raise ValueError(f"{name} is {value}; expected a number above 0")
        require_delay(delay)
        self.steps, self.delay = steps, delay
        self.gamma, self.c0, self.power = gamma, c0, power
        self._theta = Descent(optimizer)
        self._loaded_theta: list[Tensor] | None = None

    def weight(self, k: int) -> float:
        """Return c_k of update k, which is 0 or more."""
        return float(self.c0 * (1 + max(k - self.delay, 0)) ** self.power)

    def _start(self, lower: Sequence[Tensor]) -> None:
        super()._start(lower)
        theta = self._loaded_theta or lower
        self._theta.move_to([value.to(y) for value, y in zip(theta, lower, strict=True)])

    def _pull(self, values: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
        return squared_distance(values, [other.detach() for other in others]) / (2 * self.gamma)

    def _solve(self, problem: BilevelProblem, lower: Sequence[Tensor], k: int) -> None:
        c, check = self.weight(k), getattr(problem, "check_finite", None)

        def of_y(y: Sequence[Tensor]) -> Tensor:
            pull = self._pull(y, self._theta.values)
            return problem.lower_loss(y) - pull + problem.upper_loss(y) / c

        def of_theta(theta: Sequence[Tensor]) -> Tensor:
            return problem.lower_loss(theta) + self._pull(theta, lower)

        for _ in range(self.steps):
            self._descend(problem, lower, of_y, 1)
            self._theta.minimise(of_theta, 1, check)

    def _upper(
        self, problem: BilevelProblem, y: Sequence[Tensor], k: int, solved: bool
    ) -> tuple[Tensor, Mapping[str, float]]:
        c, theta = self.weight(k), [value.detach() for value in self._theta.values]
        f, f_theta = problem.lower_loss(y), problem.lower_loss(theta)
        upper = problem.upper_loss(y)
        means = mean_over_ranks([upper.detach(), f.detach(), f_theta.detach()])
        far = squared_distance(y, theta)
        residual = means[1] - means[2] - far / (2 * self.gamma)
        log = named(("F", "f", "f_theta", "residual", "distance"), [*means, residual, far.sqrt()])
        return upper + c * (f - f_theta), log | {"c": c}

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs: updates, theta and the moments of both optimisers."""
        theta = self._theta.values or self._loaded_theta
        return super().state_dict() | {
            "theta": None if theta is None else [value.detach().clone() for value in theta],
            "theta_optimizer": self._theta.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._theta.load_state_dict(state["theta_optimizer"])
        self._loaded_theta = state["theta"]
