"""A hypergradient from first derivatives alone: the Hessian of f taken as an outer product."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from clipfuse.bilevel.alternate import Alternate
from clipfuse.bilevel.descent import LowerOptimizer, gradients, mean_over_ranks
from clipfuse.bilevel.nested import named, require_weights
from clipfuse.bilevel.problem import BilevelProblem


class GaussNewton(Alternate):
    """y takes steps down f, then x one step along dF/dx - eta <F_y, f_y> / (|f_y|^2 + damping) df/dx.

    After the released code of BDLFusion (Liu et al., IJCAI 2023). The exact hypergradient is
    F_x - f_xy f_yy^-1 F_y; with f_yy ~ f_y f_y^T and f_xy ~ f_x f_y^T the inverse becomes a quotient of
    scalar products. Consequences:

    - Exact, up to the damping, where y is one number and f = h (y - g(x))^2 / 2 with constant h.
    - Beyond that only the part of F_y along f_y counts: f = |y - g(x)|^2_H / 2 gives
      F_x + g_x^T P F_y, P the projection along f_y, in place of F_x + g_x^T F_y. If the angle between f_y
      and F_y is random, the part kept is 1 / dim(y) of F_y in the mean.
    - At the minimum of f the quotient is 0 / 0: y must not reach it, and the correction fades as |f_y|^2
      falls to `damping`. The published setting is `steps=1`, `every=1` and a damping of 1e-12.
    - y descends f alone and stays in the basin it starts in; F has no part in the choice among minima.

    Logged: F, f, slope (the factor of df/dx), lower_gradient (|f_y|), and steps, those of y in the last
    solve.

    Args:
        optimizer: makes the optimiser of y, as in `Descent`.
        steps: steps of y per solve, 1 or more.
        every: updates per solve, 1 or more.
        eta: factor of the correction, 0 or more.
        damping: added to |f_y|^2, 0 or more.
        tolerance: relative change of f at which a solve ends before its last step, 0 or more; 0: never.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        optimizer: LowerOptimizer,
        *,
        steps: int = 5,
        every: int = 10,
        eta: float = 1.0,
        damping: float = 1e-6,
        tolerance: float = 0.0,
    ) -> None:
        super().__init__(optimizer, steps=steps, every=every, tolerance=tolerance)
        require_weights(eta=eta, damping=damping)
        self.eta, self.damping = eta, damping

    def _upper(
        self, problem: BilevelProblem, y: Sequence[Tensor], k: int, solved: bool
    ) -> tuple[Tensor, Mapping[str, float]]:
        leaves = [value.detach().requires_grad_() for value in y]
        both = gradients(problem.lower_loss(leaves), leaves) + gradients(problem.upper_loss(leaves), leaves)
        flat = [gradient.flatten() for gradient in mean_over_ranks(both)]
        lower_slope, upper_slope = torch.cat(flat[: len(y)]), torch.cat(flat[len(y) :])
        squared = lower_slope.square().sum()
        share = self.eta * (upper_slope @ lower_slope) / (squared + self.damping)
        share = torch.where(squared > 0, share, torch.zeros_like(share))
        f, upper = problem.lower_loss(y), problem.upper_loss(y)
        means = mean_over_ranks([upper.detach(), f.detach()])
        log = named(("F", "f", "slope", "lower_gradient"), [*means, -share, squared.sqrt()])
        return upper - share * f, log | self._taken
