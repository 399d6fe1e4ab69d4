"""The Moreau envelope's own rules: its step against one written out, its fixed point, its schedule."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[2]))
from experiments.bilevel_toy.hypergradients import direction
from experiments.bilevel_toy.run import SOLVERS, solve
from experiments.bilevel_toy.toy import Case, Quadratic, optimum, random_quadratic

from clipfuse.bilevel import Meha

SGD = partial(torch.optim.SGD, lr=0.2)


@pytest.mark.parametrize("steps", [1, 2])
def test_updates_are_those_of_the_paper(steps: int) -> None:
    """Against the steps written out with gradients by hand; float64, so rounding alone differs."""
    gamma, c0, power, rate, pace = 0.7, 2.0, 0.4, 0.2, 0.05
    problem = random_quadratic(0, 3)
    solver = Meha(SGD, steps=steps, gamma=gamma, c0=c0, power=power)
    optimizer = torch.optim.SGD([problem.x], lr=pace)
    A, H, p, q = problem.A, problem.H, problem.p, problem.q
    x, y = problem.x.detach().clone(), problem.y.clone()
    theta = y.clone()
    for k in range(5):
        c = c0 * (k + 1) ** power
        for _ in range(steps):
            y = y - rate * ((y - q) / c + H @ (y - A @ x) - (y - theta) / gamma)
            theta = theta - rate * (H @ (theta - A @ x) + (theta - y) / gamma)
        slope = (x - p) / c - A.T @ H @ (y - A @ x) + A.T @ H @ (theta - A @ x)
        values = {
            "F": ((x - p).square().sum() + (y - q).square().sum()) / 2,
            "f": (y - A @ x) @ H @ (y - A @ x) / 2,
            "f_theta": (theta - A @ x) @ H @ (theta - A @ x) / 2,
            "distance": (y - theta).norm(),
        }
        values["residual"] = values["f"] - values["f_theta"] - values["distance"] ** 2 / (2 * gamma)
        x = x - pace * c * slope  # the paper's step, times c_k
        log = dict(solver.step(problem, optimizer))
        assert log.pop("c") == pytest.approx(c, rel=1e-14)
        assert log == pytest.approx(
            {name: float(value) for name, value in values.items()}, rel=1e-10, abs=1e-13
        )
        torch.testing.assert_close(problem.x.detach(), x, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(problem.y, y, rtol=1e-12, atol=1e-12)


def fixed_direction(problem: Quadratic, c: float, gamma: float) -> Tensor:
    """Return the gradient of min_y F + c (f - v); f - v = r^T M r / 2 with M = gamma H^2 (1 + gamma H)^-1."""
    one = torch.eye(len(problem.y)).to(problem.H)
    matrix = gamma * problem.H @ problem.H @ torch.linalg.inv(one + gamma * problem.H)
    x = problem.x.detach()
    y = torch.linalg.solve(one + c * matrix, problem.q + c * matrix @ problem.A @ x)
    return x - problem.p - c * problem.A.T @ matrix @ (y - problem.A @ x)


def test_settles_at_the_minimum_of_the_penalised_envelope() -> None:
    problem, c, gamma = random_quadratic(0, 3), 30.0, 2.0
    solver = Meha(partial(torch.optim.SGD, lr=0.3), steps=1200, gamma=gamma, c0=c, power=0)
    # The slowest direction shrinks by 0.98 or less a step: 1200 steps leave rounding.
    torch.testing.assert_close(
        direction(solver, problem), fixed_direction(problem, c, gamma), rtol=1e-9, atol=1e-9
    )


def test_nears_the_exact_hypergradient_as_the_weight_grows() -> None:
    problem = random_quadratic(0, 3)
    exact = problem.hypergradient()
    errors = [float((fixed_direction(problem, c, 2.0) - exact).norm()) for c in (1e3, 1e4, 1e5)]
    assert errors[0] / errors[1] > 9  # 1 / c in the limit
    assert errors[1] / errors[2] > 9.9


def test_weight_grows_after_a_delay() -> None:
    solver, late = Meha(SGD, c0=0.5, power=2), Meha(SGD, c0=0.5, power=2, delay=3)
    assert [solver.weight(k) for k in range(4)] == [0.5, 2, 4.5, 8]
    assert [late.weight(k) for k in range(7)] == [0.5] * 3 + [solver.weight(k) for k in range(4)]


def test_finds_the_toys_optimum_from_four_starts() -> None:
    """Within 5e-3: the bias of the last weight, 2 * 800^0.75 * 0.9 / 1.9 = 142, is 2.2e-3 for n = 2.

    The rest is that y and theta trail x by one step each.
    """
    starts = [(0.0, 0.0), (2.0, 2.0), (4.0, 4.0), (1.0, 7.0)]
    cases = [Case(2.0, (2.0,) * n, x, (y,) * n) for n in (1, 2, 10, 100, 1000) for x, y in starts]
    best = torch.tensor([optimum(case.a, case.n) for case in cases], dtype=torch.float64)
    assert float((solve(SOLVERS["meha"](), cases, steps=800) - best).abs().max()) <= 5e-3


def test_a_wide_envelope_lets_y_and_theta_part() -> None:
    """Beyond 1 / rho = 1 the inner problem of the toy has several solutions: what the docstring warns of."""
    case = Case(2.0, (2.0, 2.0), 0.0, (0.0, 0.0))
    solver = Meha(partial(torch.optim.SGD, lr=0.6), gamma=10.0, power=0.49)
    ends: list[float] = []
    found = solve(solver, [case], 200, lambda toy: ends.append(float(toy.y[0, 0])))
    (theta,) = solver.state_dict()["theta"]
    assert abs(ends[-1] - float(theta[0, 0])) > 3
    assert abs(float(found) - optimum(2.0, 2)) > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeps_the_type(dtype: torch.dtype) -> None:
    wide = random_quadratic(0, 3)
    fields = {name: getattr(wide, name).detach().to(dtype) for name in ("y", "p", "q", "A", "H")}
    problem = Quadratic(x=wide.x.detach().to(dtype).requires_grad_(), **fields)
    solver = Meha(SGD)
    solver.step(problem, torch.optim.SGD([problem.x], lr=0.1))
    assert problem.y.dtype == problem.x.dtype == solver.state_dict()["theta"][0].dtype == dtype
