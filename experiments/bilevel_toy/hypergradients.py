"""How far is the direction a solver gives x from the exact hypergradient, where f is quadratic?

    python experiments/bilevel_toy/hypergradients.py

prints relative errors: of `ValuePenalty` by weight, of `GaussNewton` by the number of lower unknowns.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[2]))
from experiments.bilevel_toy.toy import Quadratic, random_quadratic

from clipfuse.bilevel import GaussNewton, Solver, ValuePenalty

DESCENT = partial(torch.optim.SGD, lr=0.5)
PROBLEMS = 50


def direction(solver: Solver, problem: Quadratic) -> Tensor:
    """Return the gradient that one update gives x, (m,); x itself stays."""
    solver.step(problem, torch.optim.SGD([problem.x], lr=0.0), backward=Tensor.backward)
    assert problem.x.grad is not None
    return problem.x.grad.clone()


def value_penalty_direction(
    problem: Quadratic, weight: float, penalty: str = "linear", order: int = 1
) -> Tensor:
    """Return the direction of `ValuePenalty` at constant weight, inner problems solved to the end."""
    many = {"linear": 300, "log": 300, "quadratic": 1500}[penalty]
    solver = ValuePenalty(
        DESCENT,
        z_steps=300,
        y_steps=many,
        w0=weight,
        w_max=weight,
        mu0=0,
        theta0=0,
        penalty=penalty,
        order=order,
    )
    return direction(solver, problem)


def gauss_newton_direction(problem: Quadratic, steps: int = 1) -> Tensor:
    """Return the direction of `GaussNewton` after so many steps of y."""
    return direction(GaussNewton(DESCENT, steps=steps, damping=1e-12), problem)


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def main() -> None:
    """Measure and print."""
    exact = random_quadratic(0, 3).hypergradient()
    print("value_penalty, n = 3: relative error by weight, penalty and order")
    for penalty, order in (("linear", 1), ("linear", 2), ("log", 1), ("quadratic", 1)):
        errors = [
            _error(value_penalty_direction(random_quadratic(0, 3), w, penalty, order), exact)
            for w in (1e0, 1e1, 1e2, 1e3, 1e4)
        ]
        print(f"{penalty:<10}{order}" + "".join(f"{value:10.1e}" for value in errors))
    print(f"gauss_newton: relative error, median of {PROBLEMS} problems, after 1, 10 and 100 steps of y")
    for n in (1, 2, 3, 10, 100):
        medians = []
        for steps in (1, 10, 100):
            errors = []
            for seed in range(PROBLEMS):
                problem = random_quadratic(seed, n)
                found = gauss_newton_direction(problem, steps)
                errors.append(_error(found, problem.hypergradient(problem.y)))
            medians.append(float(torch.tensor(errors).median()))
        print(f"n = {n:<6}" + "".join(f"{value:10.1e}" for value in medians))


if __name__ == "__main__":
    main()
