"""The hypergradient through steps of x: closed form, finite differences, and what it costs the caller."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from clipfuse.bilevel import OnceDifferentiableError, Unrolled

Slopes = list[Tensor]


class Recorder(torch.optim.Optimizer):
    """Moves nothing, and keeps the gradients it is given."""

    def __init__(self, values: list[Tensor], found: Slopes) -> None:
        super().__init__(values, {})
        self.found = found

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.found[:] = [value.grad.clone() for value in self.param_groups[0]["params"]]


class Quadratic:
    """F = (x - B y)^T A (x - B y) / 2 and f = |x - p|^2 / 2 + |y - q|^2 / 2: x and y change places."""

    def __init__(self, seed: int, m: int = 4, n: int = 3) -> None:
        generator = torch.Generator().manual_seed(seed)
        draw = partial(torch.randn, dtype=torch.float64, generator=generator)
        root = draw(m, m)
        self.A, self.B = root @ root.T / m + torch.eye(m).double(), draw(m, n)
        self.x, self.y, self.p, self.q = draw(m).requires_grad_(), draw(n), draw(m), draw(n)

    def lower_parameters(self) -> Sequence[Tensor]:
        return [self.y]

    def upper_parameters(self) -> Sequence[Tensor]:
        return [self.x]

    def at(self, upper: Sequence[Tensor], samples: slice) -> "Quadratic":
        moved = Quadratic.__new__(Quadratic)
        moved.__dict__ = {**self.__dict__, "x": upper[0]}
        return moved

    def upper_loss(self, lower: Sequence[Tensor]) -> Tensor:
        far = self.x - self.B @ lower[0]
        return far @ self.A @ far / 2

    def lower_loss(self, lower: Sequence[Tensor]) -> Tensor:
        return ((self.x - self.p).square().sum() + (lower[0] - self.q).square().sum()) / 2

    def hypergradient(self, steps: int, rate: float) -> Tensor:
        """Return d f(x_s(y), y) / dy, where x_s = B y + (1 - rate A)^s (x - B y)."""
        shrink = torch.linalg.matrix_power(torch.eye(len(self.x)).double() - rate * self.A, steps)
        x = self.B @ self.y + shrink @ (self.x - self.B @ self.y)
        return ((self.B - shrink @ self.B).T @ (x - self.p) + self.y - self.q).detach()


def hypergradient(problem: Any, **options: Any) -> Slopes:
    """Return what the optimiser of y is given in one update; x moves in no direction."""
    found: Slopes = []
    solver = Unrolled(lambda values: Recorder(values, found), **options)
    optimizer = torch.optim.SGD(problem.upper_parameters(), lr=0.0)
    solver.step(problem, optimizer, backward=Tensor.backward)
    return found


@pytest.mark.parametrize("steps", [1, 3, 20])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_closed_form(seed: int, steps: int) -> None:
    problem = Quadratic(seed)
    (found,) = hypergradient(problem, steps=steps, rate=0.1)
    torch.testing.assert_close(found, problem.hypergradient(steps, 0.1), rtol=1e-10, atol=1e-12)
    direct = problem.y - problem.q
    assert float((found - direct).norm()) > 0.1 * float(direct.norm())  # what alternation leaves out


def test_many_steps_reach_the_solution_of_the_nested_problem() -> None:
    """x*(y) = B y, so that df/dy = B^T (B y - p) + y - q: what the steps approach."""
    problem = Quadratic(0)
    limit = problem.B.T @ (problem.B @ problem.y - problem.p) + problem.y - problem.q
    errors = [
        float((hypergradient(problem, steps=steps, rate=0.3)[0] - limit).norm()) for steps in (1, 10, 60)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-6


def test_a_difference_is_exact_where_the_loss_is_quadratic() -> None:
    problem = Quadratic(1)
    (found,) = hypergradient(problem, rate=0.1, first_order=True)
    # A central difference over 0.01 loses some 1e-16 / 0.01 to rounding.
    torch.testing.assert_close(found, problem.hypergradient(1, 0.1), rtol=1e-10, atol=1e-10)


class Waves:
    """A smooth problem that is neither quadratic nor separable: tanh layers on ten samples."""

    def __init__(self, y: Sequence[Tensor]) -> None:
        generator = torch.Generator().manual_seed(3)
        draw = partial(torch.randn, dtype=torch.float64, generator=generator)
        self.x = [draw(5, 3).requires_grad_(), draw(5).requires_grad_()]
        self.samples, self.targets = draw(10, 3), draw(10)
        self.y = list(y)

    def lower_parameters(self) -> Sequence[Tensor]:
        return self.y

    def upper_parameters(self) -> Sequence[Tensor]:
        return self.x

    def at(self, upper: Sequence[Tensor], samples: slice) -> "Waves":
        moved = Waves(self.y)
        moved.x = list(upper)
        moved.samples, moved.targets = self.samples[samples], self.targets[samples]
        return moved

    def seen(self) -> Tensor:
        return torch.tanh(self.samples @ self.x[0].T) @ self.x[1]

    def upper_loss(self, lower: Sequence[Tensor]) -> Tensor:
        weights = torch.sigmoid(self.samples @ lower[0])
        return (weights * (self.seen() - self.targets).square()).mean() + lower[1].square() * self.x[1].norm()

    def lower_loss(self, lower: Sequence[Tensor]) -> Tensor:
        return (self.seen() * lower[1] - self.targets).square().mean()

    def ahead(self, y: Sequence[Tensor], steps: int, rate: float) -> float:
        """Return f(x'(y), y) by torch's own descent, on even samples; f is that of odd ones."""
        problem = self.at([value.detach().clone().requires_grad_() for value in self.x], slice(0, None, 2))
        optimizer = torch.optim.SGD(problem.x, lr=rate)
        for _ in range(steps):
            optimizer.zero_grad()
            problem.upper_loss(y).backward()
            optimizer.step()
        return float(self.at(problem.x, slice(1, None, 2)).lower_loss(y).detach())


def waves() -> Waves:
    return Waves([torch.tensor([0.3, -0.5, 0.8]).double(), torch.tensor(0.6).double()])


@pytest.mark.parametrize("steps", [1, 3])
def test_equals_finite_differences(steps: int) -> None:
    problem, rate, nudge = waves(), 0.2, 1e-5
    found = torch.cat([each.flatten() for each in hypergradient(problem, steps=steps, rate=rate)])
    flat = torch.cat([value.flatten() for value in problem.y])
    for index in range(len(flat)):
        sides = []
        for sign in (1, -1):
            moved = flat.clone()
            moved[index] += sign * nudge
            sides.append(problem.ahead([moved[:3], moved[3]], steps, rate))
        difference = (sides[0] - sides[1]) / (2 * nudge)
        # The error of a central difference: nudge^2 times a third derivative, and rounding over nudge.
        assert float(found[index]) == pytest.approx(difference, rel=1e-6, abs=1e-8)


def test_a_difference_nears_the_exact_hypergradient() -> None:
    exact, found = (
        torch.cat([each.flatten() for each in hypergradient(waves(), rate=0.2, first_order=first)])
        for first in (False, True)
    )
    assert float((exact - found).norm() / exact.norm()) < 1e-4
    assert not torch.equal(exact, found)


def test_the_rate_is_the_networks_unless_it_is_given() -> None:
    problem, found = Quadratic(2), []
    solver = Unrolled(lambda values: Recorder(values, found), every=1)
    optimizer = torch.optim.SGD(problem.upper_parameters(), lr=0.05)
    for rate in (0.05, 0.02):
        optimizer.param_groups[0]["lr"] = rate
        before = problem.hypergradient(1, rate)
        solver.step(problem, optimizer, backward=Tensor.backward)
        torch.testing.assert_close(found[0], before, rtol=1e-10, atol=1e-12)
    assert problem.x.grad is not None  # x itself moves down F


def test_y_and_x_reach_the_solution_of_the_nested_problem() -> None:
    """y* minimises |B y - p|^2 / 2 + |y - q|^2 / 2 and x* = B y*, where alternation stays at y = q."""
    problem = Quadratic(4)
    best = torch.linalg.solve(
        problem.B.T @ problem.B + torch.eye(3).double(), problem.B.T @ problem.p + problem.q
    )
    solver = Unrolled(partial(torch.optim.SGD, lr=0.2), steps=30, rate=0.3, every=1)
    optimizer = torch.optim.SGD([problem.x], lr=0.3)
    for _ in range(150):
        log = solver.step(problem, optimizer, backward=Tensor.backward)
    # 30 steps leave a share of some 1e-4 of the way to x*(y) open.
    torch.testing.assert_close(problem.y, best, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(problem.x.detach(), problem.B @ best, rtol=1e-3, atol=1e-3)
    assert float((best - problem.q).norm()) > 0.1
    assert set(log) == {"F", "f"}


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda adam: Unrolled(adam, steps=0), "steps is 0"),
        (lambda adam: Unrolled(adam, every=0), "every is 0"),
        (lambda adam: Unrolled(adam, rate=0), "rate is 0; expected a learning rate above 0"),
        (lambda adam: Unrolled(adam, rate=-1), "rate is -1"),
        (lambda adam: Unrolled(adam, rate=math.nan), "rate is nan"),
        (lambda adam: Unrolled(adam, steps=2, first_order=True), "steps is 2; take 1"),
    ],
)
def test_refuses_by_name(make: Callable[[Any], Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make(torch.optim.Adam)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return 2 * value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return 2 * upstream


def test_what_has_one_derivative_takes_differences() -> None:
    class Rough(Quadratic):
        def at(self, upper: Sequence[Tensor], samples: slice) -> "Rough":
            moved = Rough.__new__(Rough)
            moved.__dict__ = {**self.__dict__, "x": upper[0]}
            return moved

        def upper_loss(self, lower: Sequence[Tensor]) -> Tensor:
            far: Tensor = _Once.apply(self.x - self.B @ lower[0])
            return far @ self.A @ far / 2

    with pytest.raises(
        OnceDifferentiableError, match=r"\(.*once_differentiable\); take solver.first_order=true"
    ):
        hypergradient(Rough(0), rate=0.1)
    problem = Rough(0)
    (found,) = hypergradient(problem, rate=0.1, first_order=True)
    torch.testing.assert_close(
        found, problem.hypergradient(1, 0.4), rtol=1e-10, atol=1e-10
    )  # F is 4 times as large


def test_needs_a_problem_that_moves() -> None:
    class Still(Quadratic):
        at = property()  # type: ignore[assignment]

    problem = Still(0)
    with pytest.raises(ValueError, match="Still has no function 'at'"):
        hypergradient(problem)
