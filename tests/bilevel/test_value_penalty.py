"""The value function's own rules: schedules, penalties, anchor, and what z and y may take from whom."""

import math
from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

from clipfuse.bilevel import ValuePenalty
from clipfuse.bilevel.descent import Descent

ADAM = partial(torch.optim.Adam, lr=0.05)


class _TwoWells:
    """f = (y^2 - 1)^2 - y / 2 + x: the better well is at y > 0; F = (y - 1)^2 + x^2 pulls there."""

    def __init__(self, y0: float) -> None:
        self.x = torch.zeros((), dtype=torch.float64, requires_grad=True)
        self.y = torch.tensor(y0, dtype=torch.float64)
        self.upper_calls = 0

    def lower_parameters(self) -> Sequence[Tensor]:
        return [self.y]

    def upper_loss(self, lower: Sequence[Tensor]) -> Tensor:
        self.upper_calls += 1
        return (lower[0] - 1) ** 2 + self.x**2

    def lower_loss(self, lower: Sequence[Tensor]) -> Tensor:
        return (lower[0] ** 2 - 1) ** 2 - lower[0] / 2 + self.x


def test_schedules_and_log() -> None:
    problem = _TwoWells(0.5)
    optimizer = torch.optim.SGD([problem.x], lr=0.1)
    solver = ValuePenalty(ADAM, every=1, w0=0.5, power=2, w_max=6, mu0=0.1, theta0=0.2)
    logs = [solver.step(problem, optimizer) for _ in range(5)]
    assert [log["w"] for log in logs] == [0.5, 2, 4.5, 6, 6]
    assert [log["mu"] for log in logs] == [0.1 * (1 + k) ** -1.1 for k in range(5)]
    assert [log["theta"] for log in logs] == [0.2 * (1 + k) ** -1.1 for k in range(5)]
    for log in logs:
        assert set(log) == {
            *("F", "f", "f_z", "residual", "slope", "distance"),
            *("w", "mu", "theta", "order", "z_steps", "y_steps"),
        }
        assert log["residual"] == log["f"] - log["f_z"] >= 0
        assert log["slope"] == log["w"]


@pytest.mark.parametrize("penalty", ["linear", "quadratic", "log"])
def test_penalty_slopes(penalty: str) -> None:
    solver = ValuePenalty(ADAM, penalty=penalty)
    residuals = torch.tensor([-1.0, 0.0, 0.1, 0.2, 5.0], dtype=torch.float64)
    expected = {
        "linear": [4.0] * 5,
        "quadratic": [0.0, 0.0, 0.4, 0.8, 20.0],
        "log": [4.0, 4.0, 4 / 0.6, 4 / 0.2, 40.0],
    }
    assert solver._slope(4.0, residuals).tolist() == pytest.approx(expected[penalty])


@pytest.mark.parametrize("optimistic", [True, False])
def test_z_takes_over_a_better_y(optimistic: bool) -> None:
    problem = _TwoWells(-1.0)
    solver = ValuePenalty(
        partial(torch.optim.SGD, lr=0.05), z_steps=50, y_steps=200, w0=0.1, w_max=0.1, optimistic=optimistic
    )
    log = solver.step(problem, torch.optim.SGD([problem.x], lr=0.1))
    (z,) = solver.state_dict()["z"]
    if optimistic:  # F leads y over the hill, and z follows
        assert torch.equal(z, problem.y)
        assert float(z) > 0.9
        assert log["residual"] == 0
    else:  # without F in its step y stays in the well that z is in
        assert float(problem.y) < -0.8
        assert float(z) < -0.8


def test_upper_loss_may_be_left_out_of_the_lower_step() -> None:
    for optimistic, calls in {True: 5, False: 1}.items():
        problem = _TwoWells(-1.0)
        solver = ValuePenalty(ADAM, y_steps=4, optimistic=optimistic)
        solver.step(problem, torch.optim.SGD([problem.x], lr=0.1))
        assert problem.upper_calls == calls


@pytest.mark.parametrize(("pull", "y_steps"), [("mu0", 1), ("theta0", 300)])
def test_the_start_pulls(pull: str, y_steps: int) -> None:
    """f' = -2.036 at 0.6, where a pull to 0.2 of weight 2.545 balances it; without it the well is at 1.06."""
    problem = _TwoWells(0.2)
    weights = {"mu0": 0.0, "theta0": 0.0, pull: 2.545}
    solver = ValuePenalty(ADAM, z_steps=300, y_steps=y_steps, optimistic=False, **weights)
    solver.step(problem, torch.optim.SGD([problem.x], lr=0.0))
    z = float(solver.state_dict()["z"][0])
    assert float(solver.state_dict()["anchor"][0]) == 0.2
    found = {"mu0": [z, float(problem.y)], "theta0": [float(problem.y), z]}[pull]
    assert found == pytest.approx([0.6, 0.25 if pull == "mu0" else 1.06], abs=0.01)


def test_schedules_begin_after_a_delay() -> None:
    solver = ValuePenalty(ADAM, w0=0.5, power=2, w_max=6, mu0=0.1, theta0=0.2, delay=3)
    at_once = ValuePenalty(ADAM, w0=0.5, power=2, w_max=6, mu0=0.1, theta0=0.2)
    assert [solver.weights(k) for k in range(7)] == [at_once.weights(max(k - 3, 0)) for k in range(7)]
    with pytest.raises(ValueError, match="delay is -1; expected 0 or more updates"):
        ValuePenalty(ADAM, delay=-1)


class _Steep:
    """f = -cos(y - x), F = 4 (y - 1)^2 + x^2: the curvature of 2w f - F is 8 below that of 2w f."""

    def __init__(self) -> None:
        self.x = torch.zeros((), dtype=torch.float64, requires_grad=True)
        self.y = torch.tensor([0.3], dtype=torch.float64)

    def lower_parameters(self) -> Sequence[Tensor]:
        return [self.y]

    def upper_loss(self, lower: Sequence[Tensor]) -> Tensor:
        return 4 * (lower[0] - 1).square().sum() + self.x**2

    def lower_loss(self, lower: Sequence[Tensor]) -> Tensor:
        return -torch.cos(lower[0] - self.x).sum()


def descend(solver: ValuePenalty, problem: _Steep, updates: int) -> list[dict[str, float]]:
    optimizer = torch.optim.SGD([problem.x], lr=0.0)
    return [solver.step(problem, optimizer) for _ in range(updates)]


def test_order_2_falls_back_where_there_is_no_negative_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    gentle = partial(torch.optim.SGD, lr=0.3)
    problem = _Steep()
    solver = ValuePenalty(gentle, every=2, w0=1, w_max=1, mu0=0, theta0=0, z_steps=40, y_steps=40, order=2)
    logs = descend(solver, problem, 6)
    assert [log["order"] for log in logs] == [1.0] * 6
    assert [log["slope"] for log in logs] == [2.0] * 6  # the forward difference at the weight of y
    assert [log["z_steps"] for log in logs] == [80] * 6
    (z,) = solver.state_dict()["z"]
    assert abs(float(z)) < 1e-3  # the minimum of f
    expected = 2 * (torch.sin(-problem.y) - torch.sin(-z))
    assert float(problem.x.grad) == pytest.approx(float(expected.sum()))
    monkeypatch.setattr(ValuePenalty, "_is_minimum", lambda *_: True)
    alone = ValuePenalty(gentle, every=2, w0=1, w_max=1, mu0=0, theta0=0, z_steps=40, y_steps=40, order=2)
    descend(alone, _Steep(), 6)
    assert abs(float(alone.state_dict()["z"][0])) > 10  # it left


def test_order_2_returns_to_the_central_difference_and_logs_it() -> None:
    problem = _Steep()
    solver = ValuePenalty(
        partial(torch.optim.SGD, lr=0.3), every=1, w0=1, power=1, w_max=20, z_steps=40, y_steps=40, order=2
    )
    orders = [log["order"] for log in descend(solver, problem, 12)]
    assert orders[:3] == [1, 1, 1]
    assert orders[-4:] == [2, 2, 2, 2]
    y, z = float(problem.y), float(solver.state_dict()["z"][0])
    assert y > 0 > z


def test_order_2_falls_back_where_a_hill_parts_y_from_z() -> None:
    problem = _Steep()
    solver = ValuePenalty(partial(torch.optim.SGD, lr=0.3), every=1, w0=20, w_max=20, order=2, y_steps=9)
    descend(solver, problem, 3)
    assert descend(solver, problem, 1)[0]["order"] == 2
    with torch.no_grad():
        problem.y += 2 * torch.pi  # another minimum of f, with the same f
    log = descend(solver, problem, 1)[0]
    assert log["order"] == 1
    assert log["distance"] < 1
    assert float(solver.state_dict()["z"][0]) > 5
    assert descend(solver, problem, 1)[0]["order"] == 2


@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
def test_a_descent_ends_where_its_objective_hardly_changes(tolerance: float) -> None:
    """Plain steps y <- y - 0.3 sin(y) down 1 - cos(y): written out, until a change of 1e-3 or less."""
    moved, calls = Descent(partial(torch.optim.SGD, lr=0.3)), 0
    moved.move_to([torch.tensor([1.0], dtype=torch.float64)])

    def objective(values: Sequence[Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        return 2 - torch.cos(values[0]).sum()

    taken = moved.minimise(objective, 30, tolerance=tolerance)
    y, expected = 1.0, 0
    last = math.inf
    while expected < 30:
        now = 2 - math.cos(y)
        if tolerance and abs(last - now) <= tolerance * now:
            break
        last, y, expected = now, y - 0.3 * math.sin(y), expected + 1
    assert (taken, calls) == (expected, expected + (expected < 30))
    assert float(moved.values[0].detach()) == pytest.approx(y, abs=1e-12)
    assert taken == 30 if not tolerance else 3 < taken < 20
