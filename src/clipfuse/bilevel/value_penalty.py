"""Bi-level optimisation by the value function: the lower level's optimality as a penalty."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from clipfuse.bilevel.descent import Descent, LowerOptimizer, mean_over_ranks, squared_distance
from clipfuse.bilevel.nested import NestedSolver, named, require_steps, require_weights
from clipfuse.bilevel.problem import BilevelProblem

PENALTIES = ("linear", "quadratic", "log")
TRUNCATION = 0.1


class ValuePenalty(NestedSolver):
    """Minimises F(x, y) + P_k(f(x, y) - min_z f(x, z)) by first derivatives alone.

    Value-function sequential minimisation after BVFSM (Liu et al., TPAMI 45(12), 2023), for lower levels
    that are not convex or have several solutions. z0 is y before the first step. Update k:

    1. z takes steps down f(x, z) + mu_k |z - z0|^2, from its last value.
    2. y takes steps down F(x, y) + P_k(f(x, y) - f(x, z)) + theta_k |y - z0|^2, from its last value.
       If f(x, z) > f(x, y) now, z becomes y: the residual r = f(x, y) - f(x, z) is not negative.
    3. x takes one step down F(x, y) + s (f(x, y) - f(x, z)) with s = P_k'(r); y, z and s are constant.

    with w_k = min(w0 (1 + k)^power, w_max), and mu_k, theta_k = mu0, theta0 times (1 + k)^-decay; in these
    k counts from `delay` on.
    In updates without a solve (`every`, later micro-batches) only step 3 is done, with the last y and z;
    there r may be negative: it is noise of the batch, with mean zero.

    Both descents are scaled (own design): the objective of y is divided by 1 + s, so that one learning rate
    serves all weights, and that of z multiplied by w_k / (1 + w_k). Under the linear penalty f then has the
    same share in both, and on the same noisy batches y and z differ by F alone. With different scales the
    noise exceeded the difference and z became y in most solves, which is plain alternation.

    Penalties, by their slope s:

    - `linear`: s = w_k, as in the published code. The bias falls as 1 / w_k.
    - `quadratic`: s = w_k max(r, 0), of P = w_k r^2 / 2. The bias falls as w_k^(-1/3) only.
    - `log`: s = w_k / (1 - w_k r), of P = -log(1 - w_k r), a barrier at r = 1 / w_k; beyond 0.9 of that
      it continues as a straight line of slope 10 w_k. Own design after the truncated log barrier of BVFSM,
      whose constants are not published.

    Logged, means over the ranks: F, f, f_z, residual (f - f_z), w, mu, theta, slope (s), and distance, the
    length of y - z, which is 0 if z became y in the last solve.

    Args:
        optimizer: makes the optimisers of y and of z, as in `Descent`.
        z_steps: steps of z per solve, 1 or more.
        y_steps: steps of y per solve, 1 or more.
        every: updates per solve of the lower level, 1 or more.
        delay: updates before the schedules begin, 0 or more; for a loss whose first stage is a simpler one.
        w0: first weight of the penalty, from 0 to `w_max`.
        power: growth of the weight, 0 or more.
        w_max: largest weight.
        mu0: first weight of the pull of z to z0, 0 or more. It adds a bias of the order w_k mu_k |z - z0|.
        theta0: first weight of the pull of y to z0, 0 or more.
        decay: decline of both pulls, 0 or more.
        penalty: `linear`, `quadratic` or `log`.
        optimistic: among solutions of the lower level, y moves to the one with the smaller F; otherwise F
            is left out of step 2, and y cannot trade f for F while w_k is small.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        optimizer: LowerOptimizer,
        *,
        z_steps: int = 5,
        y_steps: int = 5,
        every: int = 10,
        delay: int = 0,
        w0: float = 1.0,
        power: float = 0.5,
        w_max: float = 10.0,
        mu0: float = 0.001,
        theta0: float = 0.001,
        decay: float = 1.1,
        penalty: str = "linear",
        optimistic: bool = True,
    ) -> None:
        super().__init__(optimizer, every)
        require_steps(z_steps=z_steps, y_steps=y_steps)
        require_weights(w0=w0, power=power, w_max=w_max, mu0=mu0, theta0=theta0, decay=decay)
        if w_max < w0:
            raise ValueError(f"w_max is {w_max}, below w0, which is {w0}; equal values keep w_k constant")
        if penalty not in PENALTIES:
            raise ValueError(f"penalty is {penalty!r}; expected one of {', '.join(PENALTIES)}")
        self.z_steps, self.y_steps = z_steps, y_steps
        if delay < 0:
            raise ValueError(f"delay is {delay}; expected 0 or more updates")
        self.delay = delay
        self.w0, self.power, self.w_max = w0, power, w_max
        self.mu0, self.theta0, self.decay = mu0, theta0, decay
        self.penalty, self.optimistic = penalty, optimistic
        self._anchor: list[Tensor] | None = None
        self._z = Descent(optimizer)
        self._loaded_z: list[Tensor] | None = None

    def weights(self, k: int) -> tuple[float, float, float]:
        """Return (w_k, mu_k, theta_k) of update k, which is 0 or more."""
        since = 1 + max(k - self.delay, 0)
        fade = since**-self.decay
        return min(self.w0 * since**self.power, self.w_max), self.mu0 * fade, self.theta0 * fade

    def _slope(self, w: float, residual: Tensor) -> Tensor:
        """Return P_k'(residual), constant for autograd."""
        residual = residual.detach()
        if self.penalty == "linear":
            return torch.full_like(residual, w)
        if self.penalty == "quadratic":
            return w * residual.clamp(min=0)
        return w / (1 - (w * residual).clamp(0, 1 - TRUNCATION))

    def _start(self, lower: Sequence[Tensor]) -> None:
        super()._start(lower)
        anchor = self._anchor or lower
        self._anchor = [a.detach().to(y, copy=True) for a, y in zip(anchor, lower, strict=True)]
        z = self._loaded_z or lower
        self._z.move_to([value.to(y) for value, y in zip(z, lower, strict=True)])

    def _solve(self, problem: BilevelProblem, lower: Sequence[Tensor], k: int) -> None:
        w, mu, theta = self.weights(k)
        anchor = self._anchor
        assert anchor is not None

        def value(z: Sequence[Tensor]) -> Tensor:
            return w / (1 + w) * (problem.lower_loss(z) + mu * squared_distance(z, anchor))

        self._z.minimise(value, self.z_steps, getattr(problem, "check_finite", None))
        needs_residual = self.penalty != "linear"
        f_z = torch.zeros(())
        if needs_residual:
            with torch.no_grad():
                (f_z,) = mean_over_ranks([problem.lower_loss(self._z.values)])

        def objective(y: Sequence[Tensor]) -> Tensor:
            f = problem.lower_loss(y)
            residual = mean_over_ranks([f.detach()])[0] - f_z if needs_residual else f
            slope = self._slope(w, residual)
            total = slope * f + theta * squared_distance(y, anchor)
            if self.optimistic:
                total = total + problem.upper_loss(y)
            return total / (1 + slope)

        self._descend(problem, lower, objective, self.y_steps)

    def _upper(
        self, problem: BilevelProblem, y: Sequence[Tensor], k: int, solved: bool
    ) -> tuple[Tensor, Mapping[str, float]]:
        w, mu, theta = self.weights(k)
        f, f_z = problem.lower_loss(y), problem.lower_loss([value.detach() for value in self._z.values])
        upper = problem.upper_loss(y)
        means = mean_over_ranks([upper.detach(), f.detach(), f_z.detach()])
        if solved and means[2] > means[1]:
            self._z.move_to(y)
            f_z, means[2] = f, means[1]
        residual = means[1] - means[2]
        slope = self._slope(w, residual)
        distance = squared_distance(y, [value.detach() for value in self._z.values]).sqrt()
        log = named(("F", "f", "f_z", "residual", "slope", "distance"), [*means, residual, slope, distance])
        return upper + slope * (f - f_z), log | {"w": w, "mu": mu, "theta": theta}

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs: updates, z, z0 and the moments of both optimisers."""
        z = self._z.values or self._loaded_z
        return super().state_dict() | {
            "z": None if z is None else [value.detach().clone() for value in z],
            "z_optimizer": self._z.state_dict(),
            "anchor": None if self._anchor is None else [value.clone() for value in self._anchor],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._z.load_state_dict(state["z_optimizer"])
        self._loaded_z = state["z"]
        self._anchor = state["anchor"]
