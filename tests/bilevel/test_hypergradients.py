"""The direction of x against the exact hypergradient of a quadratic problem."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[2]))
from experiments.bilevel_toy.hypergradients import direction, gauss_newton_direction, value_penalty_direction
from experiments.bilevel_toy.toy import random_quadratic

from clipfuse.bilevel import Alternate


def error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("seed", range(5))
def test_gauss_newton_is_exact_for_one_lower_unknown(seed: int) -> None:
    problem = random_quadratic(seed, n=1)
    found = gauss_newton_direction(problem)
    # F_y is that at y, not at y*(x): the hypergradient at the y at hand.
    torch.testing.assert_close(found, problem.hypergradient(problem.y), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("n", [2, 10])
def test_gauss_newton_keeps_the_part_along_the_gradient_of_f(n: int) -> None:
    problem = random_quadratic(0, n)
    found = gauss_newton_direction(problem)
    x, y = problem.x.detach(), problem.y
    slope = problem.H @ (y - problem.A @ x)
    kept = slope * (slope @ (y - problem.q)) / slope.square().sum()
    torch.testing.assert_close(found, x - problem.p + problem.A.T @ kept, rtol=1e-8, atol=1e-8)
    assert error(found, problem.hypergradient(y)) > 0.1


def test_gauss_newton_forgets_the_correction_where_f_is_flat() -> None:
    problem = random_quadratic(0, 3)
    problem.y.copy_((problem.A @ problem.x).detach())
    torch.testing.assert_close(gauss_newton_direction(problem), (problem.x - problem.p).detach())


@pytest.mark.parametrize(("penalty", "fall"), [("linear", 10.0), ("log", 10.0), ("quadratic", 10 ** (1 / 3))])
def test_value_penalty_nears_the_exact_one_as_the_weight_grows(penalty: str, fall: float) -> None:
    exact = random_quadratic(0, 3).hypergradient()
    weights = (1e2, 1e3, 1e4)
    errors = [error(value_penalty_direction(random_quadratic(0, 3), w, penalty), exact) for w in weights]
    for before, after in pairwise(errors):
        assert before / after == pytest.approx(fall, rel=0.25)


@pytest.mark.parametrize("weight", [20.0, 100.0])
def test_order_2_is_the_central_difference(weight: float) -> None:
    """The minima of 2w f + F and 2w f - F by linear equations, and their difference as published."""
    problem, s = random_quadratic(0, 3), 1 / (2 * weight)
    x, shift, one = problem.x.detach(), problem.H @ problem.A, torch.eye(3, dtype=torch.float64)

    def slope(sign: int) -> Tensor:
        y = torch.linalg.solve(problem.H + sign * s * one, shift @ x + sign * s * problem.q)
        return sign * s * (x - problem.p) - problem.A.T @ problem.H @ (y - problem.A @ x)

    found = value_penalty_direction(problem, weight, order=2)
    # 300 steps of 0.5 in the flattest direction, of curvature (0.1 - s) / (1 + s), leave e^-11 at s = 1 / 40.
    torch.testing.assert_close(found, (slope(1) - slope(-1)) / (2 * s), rtol=1e-3, atol=1e-3)


def test_order_2_nears_the_exact_one_by_the_square_of_the_weight() -> None:
    exact = random_quadratic(0, 3).hypergradient()
    far, near = (
        error(value_penalty_direction(random_quadratic(0, 3), w, order=2), exact) for w in (1e2, 1e3)
    )
    assert far / near == pytest.approx(100, rel=0.25)


def test_alternate_sees_only_the_direct_part() -> None:
    problem = random_quadratic(0, 3)
    solver = Alternate(lambda values: torch.optim.SGD(values, lr=0.5), steps=5)
    torch.testing.assert_close(direction(solver, problem), (problem.x - problem.p).detach())
