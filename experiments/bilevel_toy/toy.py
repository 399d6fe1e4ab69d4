"""Two bi-level problems whose answers are known: the toy of BVFSM, and a quadratic one.

The toy: min (x - a)^2 + |y - a - c|^2 subject to y_i in argmin sin(x + y_i - c_i), x a number, y in R^n
(Liu et al., BVFSM, TPAMI 2023; published with a = 2, c_i = 2). Its lower level is neither convex nor of
one solution: x + y_i - c_i is any of the branches -pi/2 + 2 pi k.

Closed forms are derived here: on the branch C, y_i = C + c_i - x, and F is a parabola in x with its
minimum at ((1 - n) a + n C) / (1 + n) and the value n (C - 2a)^2 / (1 + n): the nearest C to 2a wins.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Toy:
    """B toy problems side by side, of up to n lower unknowns; a `BilevelProblem` of their sum.

    The gradients of one problem do not depend on the others, so that optimisers that work element by
    element solve each as if alone. What a solver decides by sums (z <- y, `GaussNewton`'s quotient,
    penalties other than the linear) it decides for all together.

    Attributes:
        x: (B,), requires grad.
        y: (B,n), changed in place by solvers.
        a: (B,).
        c: (B,n).
        used: (B,n) of 0 and 1: which y_i a problem has.
    """

    x: Tensor
    y: Tensor
    a: Tensor
    c: Tensor
    used: Tensor

    def lower_parameters(self) -> Sequence[Tensor]:
        """Return y."""
        return [self.y]

    def upper_loss(self, lower: Sequence[Tensor]) -> Tensor:
        """Return F, summed over the problems."""
        far = (lower[0] - self.a[:, None] - self.c).square()
        return (self.x - self.a).square().sum() + (self.used * far).sum()

    def lower_loss(self, lower: Sequence[Tensor]) -> Tensor:
        """Return f, summed over the problems."""
        return (self.used * torch.sin(self.x[:, None] + lower[0] - self.c)).sum()


@dataclass(frozen=True)
class Case:
    """One toy problem and where to start; c and y0 have n entries."""

    a: float
    c: tuple[float, ...]
    x0: float
    y0: tuple[float, ...]

    @property
    def n(self) -> int:
        """The number of lower unknowns."""
        return len(self.c)


def stack(cases: Sequence[Case]) -> Toy:
    """Put cases of any n side by side, in float64."""

    def rows(values: Sequence[Sequence[float]]) -> Tensor:
        widest = max(map(len, values))
        return torch.tensor([[*row, *[0.0] * (widest - len(row))] for row in values], dtype=torch.float64)

    return Toy(
        x=torch.tensor([case.x0 for case in cases], dtype=torch.float64, requires_grad=True),
        y=rows([case.y0 for case in cases]),
        a=torch.tensor([case.a for case in cases], dtype=torch.float64),
        c=rows([case.c for case in cases]),
        used=rows([[1.0] * case.n for case in cases]),
    )


def branch(a: float) -> float:
    """Return C, the branch of the optimum: the -pi/2 + 2 pi k nearest to 2a."""
    return 2 * math.pi * round((2 * a + math.pi / 2) / (2 * math.pi)) - math.pi / 2


def branch_margin(a: float) -> float:
    """Return how far 2a is from the nearest midpoint between branches, where two optima are equally good."""
    return math.pi - abs(2 * a - branch(a))


def optimum(a: float, n: int, turns: int = 0) -> float:
    """Return x* for n lower unknowns; with `turns`, of the branch so many turns above the best one."""
    return ((1 - n) * a + n * (branch(a) + 2 * math.pi * turns)) / (1 + n)


def penalised_optimum(a: float, n: int, weight: float, order: int = 1) -> float:
    """Return where `ValuePenalty` comes to rest on the branch of the optimum at a constant weight.

    Order 1: the x that minimises F + weight (f - min f). There x + y_i - c_i = s for all i with s = 2a -
    (n + 1) weight / 2 cos s, solved by bisection. Order 2: the x at which F + 2 weight f at y and 2 weight f
    - F at z have the same gradient in x. x + y_i - c_i is a p with weight cos p = x + a - p, x + z_i - c_i a
    q with weight cos q = q - x - a, and x = a + n weight (cos q - cos p) / 2.
    """
    if order == 2:
        x = optimum(a, n)
        for _ in range(100):
            p = q = branch(a)
            for _ in range(100):  # Newton's method
                p -= (weight * math.cos(p) + p - x - a) / (1 - weight * math.sin(p))
                q -= (weight * math.cos(q) - q + x + a) / (-1 - weight * math.sin(q))
            x += (a + n * weight * (math.cos(q) - math.cos(p)) / 2 - x) / (1 + n)
        return x
    low, high = branch(a) - math.pi / 2, branch(a) + math.pi / 2
    for _ in range(100):
        s = (low + high) / 2
        below = s - 2 * a + (n + 1) * weight / 2 * math.cos(s) < 0
        low, high = (s, high) if below else (low, s)
    return a + n * (low - 2 * a) / (n + 1)


def random_case(seed: int, n: int) -> Case:
    """Draw a and c_i in [-3, 3], 2a at least 0.3 from a midpoint, and a start within 1 of (x*, y*)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int, bound: float) -> list[float]:
        unit = torch.rand(count, dtype=torch.float64, generator=generator)
        return ((2 * unit - 1) * bound).tolist()

    a = draw(1, 3)[0]
    while branch_margin(a) < 0.3:
        a = draw(1, 3)[0]
    c, x = draw(n, 3), optimum(a, n)
    away = torch.randn(n + 1, dtype=torch.float64, generator=generator)
    away = (away / away.norm() * draw(1, 1)[0]).tolist()
    y0 = tuple(branch(a) + ci - x + shift for ci, shift in zip(c, away[1:], strict=True))
    return Case(a, tuple(c), x + away[0], y0)


@dataclass(frozen=True)
class Quadratic:
    """F = |x - p|^2 / 2 + |y - q|^2 / 2, f = (y - A x)^T H (y - A x) / 2 with H positive definite.

    The lower level is strictly convex, y*(x) = A x, and the hypergradient is x - p + A^T (A x - q).

    Attributes:
        x: (m,), requires grad.
        y: (n,), changed in place by solvers.
        p: (m,).
        q: (n,).
        A: (n,m).
        H: (n,n).
    """

    x: Tensor
    y: Tensor
    p: Tensor
    q: Tensor
    A: Tensor
    H: Tensor

    def lower_parameters(self) -> Sequence[Tensor]:
        """Return y."""
        return [self.y]

    def upper_loss(self, lower: Sequence[Tensor]) -> Tensor:
        """Return F."""
        return ((self.x - self.p).square().sum() + (lower[0] - self.q).square().sum()) / 2

    def lower_loss(self, lower: Sequence[Tensor]) -> Tensor:
        """Return f."""
        far = lower[0] - self.A @ self.x
        return far @ self.H @ far / 2

    def hypergradient(self, y: Tensor | None = None) -> Tensor:
        """Return dF/dx + A^T dF/dy, (m,), at y; by default at y*(x), where it is the exact one."""
        y = self.A @ self.x if y is None else y
        return (self.x - self.p + self.A.T @ (y - self.q)).detach()


def random_quadratic(seed: int, n: int, m: int = 3, condition: float = 10.0) -> Quadratic:
    """Draw a quadratic problem in float64; H has eigenvalues from 1 / `condition` to 1."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    basis = torch.linalg.qr(draw(n, n)).Q
    eigenvalues = torch.logspace(0, -math.log10(condition), n, dtype=torch.float64)
    return Quadratic(
        x=draw(m).requires_grad_(),
        y=draw(n),
        p=draw(m),
        q=draw(n),
        A=draw(n, m) / math.sqrt(m),
        H=basis @ torch.diag(eigenvalues) @ basis.T,
    )
