"""Bi-level optimisation by the value function: the lower level's optimality as a penalty."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from clipfuse.bilevel.descent import Descent, LowerOptimizer, Objective, mean_over_ranks, squared_distance
from clipfuse.bilevel.nested import NestedSolver, named, require_delay, require_steps, require_weights
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

    **Order 2.** With V(s) = min_y f(x, y) + s F(x, y), F(x, y*(x)) is V'(0), and step 3 goes down its forward
    difference w (V(1/w) - V(0)), with an error of the order 1/w. `order=2` takes the central one, (V(s) -
    V(-s)) / 2s, with an error of the order 1/w^2 (F2SA-2, arXiv 2509.02937): y minimises F + 2w f, z
    minimises 2w f - F, both with the pull theta_k, which cancels, and x goes down (F(x, y) + F(x, z)) / 2 +
    w (f(x, y) - f(x, z)). Here 2s = 1/w (own design): under both orders the two points lie 1/w apart, and w
    is the factor of the difference of f. With s = 1/w, as in the paper, the w of the same result is twice
    ours. Beyond order 1, z needs the gradient of F, and x that of F at z.

    The minimum that z descends to does not exist where 2 w is too small, or y and z are parted by a hill. So
    it is kept only if 2 w f - F is not greater at z than at y, and in the middle between them not greater
    than the mean of both. Otherwise (own design) z starts again at y and takes its steps down f, and up to
    the next solve x goes down the forward difference, F(x, y) + 2 w (f(x, y) - f(x, z)): that of order 1 at
    2 w. The log has the order in use.

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

    Logged, means over the ranks: F, f, f_z, residual (f - f_z), w, mu, theta, slope (s, the factor of the
    residual), distance, the length of y - z, which is 0 if z became y in the last solve, order, that of the
    difference in use, and z_steps and y_steps, those of the last solve.

    Args:
        optimizer: makes the optimisers of y and of z, as in `Descent`.
        z_steps: steps of z per solve, 1 or more; under `order=2` as many again where z starts again.
        y_steps: steps of y per solve, 1 or more.
        tolerance: relative change of its objective at which the descent of z, or of y, ends before its last
            step, 0 or more; 0: never.
        every: updates per solve of the lower level, 1 or more.
        delay: updates before the schedules begin, 0 or more; for a loss whose first stage is a simpler one.
        w0: first weight of the penalty, from 0 to `w_max`.
        power: growth of the weight, 0 or more.
        w_max: largest weight.
        mu0: first weight of the pull of z to z0, 0 or more. It adds a bias of the order w_k mu_k |z - z0|.
            Under `order=2` it is in use where z starts again.
        theta0: first weight of the pull of y to z0, 0 or more.
        decay: decline of both pulls, 0 or more.
        penalty: `linear`, `quadratic` or `log`.
        order: of the difference, 1 or 2; 2 with the linear penalty, optimistic, alone.
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
        order: int = 1,
        tolerance: float = 0.0,
    ) -> None:
        super().__init__(optimizer, every, tolerance)
        require_steps(z_steps=z_steps, y_steps=y_steps)
        require_weights(w0=w0, power=power, w_max=w_max, mu0=mu0, theta0=theta0, decay=decay)
        if w_max < w0:
            raise ValueError(f"w_max is {w_max}, below w0, which is {w0}; equal values keep w_k constant")
        if penalty not in PENALTIES:
            raise ValueError(f"penalty is {penalty!r}; expected one of {', '.join(PENALTIES)}")
        if order not in (1, 2):
            raise ValueError(f"order is {order}; expected 1 or 2")
        if order == 2 and not (penalty == "linear" and optimistic):
            raise ValueError(
                "order 2 is that of the linear, optimistic penalty; take penalty=linear optimistic=true, "
                "or order=1"
            )
        self.z_steps, self.y_steps = z_steps, y_steps
        require_delay(delay)
        self.delay = delay
        self.w0, self.power, self.w_max = w0, power, w_max
        self.mu0, self.theta0, self.decay = mu0, theta0, decay
        self.penalty, self.optimistic, self.order = penalty, optimistic, order
        self._central = False
        self._taken = {"z_steps": 0, "y_steps": 0}
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
        w *= self.order
        anchor = self._anchor
        assert anchor is not None

        def negative(z: Sequence[Tensor]) -> Tensor:
            f, upper = problem.lower_loss(z), problem.upper_loss(z)
            return (w * f - upper + theta * squared_distance(z, anchor)) / (1 + w)

        self._taken["z_steps"] = (
            self._descend_f(problem, w, mu) if self.order == 1 else self._descend_z(problem, negative)
        )
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

        self._taken["y_steps"] = self._descend(problem, lower, objective, self.y_steps)

    def _descend_z(self, problem: BilevelProblem, objective: Objective) -> int:
        return self._z.minimise(
            objective, self.z_steps, getattr(problem, "check_finite", None), self.tolerance
        )

    def _descend_f(self, problem: BilevelProblem, w: float, mu: float) -> int:
        """Take the steps of z down f."""
        anchor = self._anchor
        assert anchor is not None

        def value(z: Sequence[Tensor]) -> Tensor:
            return w / (1 + w) * (problem.lower_loss(z) + mu * squared_distance(z, anchor))

        return self._descend_z(problem, value)

    def _upper(
        self, problem: BilevelProblem, y: Sequence[Tensor], k: int, solved: bool
    ) -> tuple[Tensor, Mapping[str, float]]:
        w, mu, theta = self.weights(k)
        z = [value.detach() for value in self._z.values]
        f, f_z = problem.lower_loss(y), problem.lower_loss(z)
        judged = solved and self.order == 2
        at_z = problem.upper_loss(z) if judged or self._central else None
        beside: list[Tensor] = []
        if judged:
            assert at_z is not None
            middle = [(a + b) / 2 for a, b in zip(y, z, strict=True)]
            with torch.no_grad():
                beside = [at_z.detach(), problem.lower_loss(middle), problem.upper_loss(middle)]
        upper = problem.upper_loss(y)
        means = mean_over_ranks([upper.detach(), f.detach(), f_z.detach(), *beside])
        if judged:
            self._central = self._is_minimum(means, [y, z, middle], self.order * w, theta)
            if not self._central:
                self._z.move_to(y)
                self._taken["z_steps"] += self._descend_f(problem, self.order * w, mu)
                f_z = problem.lower_loss(z)
                means[2] = mean_over_ranks([f_z.detach()])[0]
        if solved and not self._central and means[2] > means[1]:
            self._z.move_to(y)
            f_z, means[2] = f, means[1]
        residual = means[1] - means[2]
        slope = self._slope(self.order * w / (1 + self._central), residual)
        distance = squared_distance(y, z).sqrt()
        log = named(
            ("F", "f", "f_z", "residual", "slope", "distance"), [*means[:3], residual, slope, distance]
        )
        log |= {"w": w, "mu": mu, "theta": theta, "order": 1.0 + self._central} | self._taken
        if self._central:
            assert at_z is not None
            upper = (upper + at_z) / 2
        return upper + slope * (f - f_z), log

    def _is_minimum(
        self, means: Sequence[Tensor], points: Sequence[Sequence[Tensor]], w: float, theta: float
    ) -> bool:
        """Return whether z is better than y at w f - F, and no hill lies between; up to rounding.

        Args:
            means: F and f at y, then f and F at z, and in the middle.
            points: y, z and the middle.
            w: weight of f.
            theta: weight of the pull to z0.
        """
        anchor = self._anchor
        assert anchor is not None
        pairs = [(means[1], means[0]), (means[2], means[3]), (means[4], means[5])]
        at_y, at_z, middle = (
            w * f - upper + theta * squared_distance(point, anchor)
            for (f, upper), point in zip(pairs, points, strict=True)
        )
        slack = 4 * torch.finfo(at_y.dtype).eps * ((w * means[1]).abs() + means[0].abs())
        return bool((at_z <= at_y + slack) & (middle <= (at_y + at_z) / 2 + slack))

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs: updates, z, z0 and the moments of both optimisers."""
        z = self._z.values or self._loaded_z
        return super().state_dict() | {
            "z": None if z is None else [value.detach().clone() for value in z],
            "z_optimizer": self._z.state_dict(),
            "anchor": None if self._anchor is None else [value.clone() for value in self._anchor],
            "central": self._central,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._z.load_state_dict(state["z_optimizer"])
        self._loaded_z = state["z"]
        self._anchor = state["anchor"]
        self._central = state.get("central", False)  # older states have none
