from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from clipfuse.bilevel import BilevelProblem, Joint, Solver


class _Quadratic:
    """F(x, y) = (x - 3)^2 + (x y - 1)^2, f(x, y) = (y - x)^2; without a weight f is never to be looked at."""

    def __init__(self, x: Tensor, y: Tensor, weighted: bool = False) -> None:
        self.x, self.y, self.weighted = x, y, weighted

    def lower_parameters(self) -> Sequence[Tensor]:
        return [self.y]

    def upper_loss(self, lower: Sequence[Tensor]) -> Tensor:
        return (self.x - 3) ** 2 + (self.x * lower[0] - 1) ** 2

    def lower_loss(self, lower: Sequence[Tensor]) -> Tensor:
        assert self.weighted, "the joint solver looked at the lower level"
        return (lower[0] - self.x) ** 2


def test_one_step_is_one_step_of_gradient_descent() -> None:
    x, y = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (2.0, 0.5))
    problem: BilevelProblem = _Quadratic(x, y)
    solver: Solver = Joint(0.0)
    optimizer = torch.optim.SGD([x, y], lr=0.1)
    assert solver.step(problem, optimizer, backward=lambda loss: loss.backward()) == {}
    # dF/dx = 2 (x - 3) + 2 y (x y - 1) = -2, dF/dy = 2 x (x y - 1) = 0.
    assert float(x) == 2.2
    assert float(y) == 0.5


def test_descends_to_the_joint_minimum() -> None:
    x, y = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (2.0, 0.1))
    optimizer = torch.optim.SGD([x, y], lr=0.05)
    solver = Joint(0.0)
    for _ in range(600):
        solver.step(_Quadratic(x, y), optimizer)
    torch.testing.assert_close(
        torch.stack([x, y]).detach(), torch.tensor([3, 1 / 3]).double(), rtol=0, atol=1e-7
    )


def test_both_losses_in_one_step() -> None:
    x, y = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (2.0, 0.5))
    log = Joint(lower_weight=2.0).step(_Quadratic(x, y, weighted=True), torch.optim.SGD([x, y], lr=0.1))
    assert log == {"F": 1.0, "f": 2.25}
    # The weight times df/dx = -2 (y - x) = 3 and df/dy = -3 are added.
    torch.testing.assert_close(
        torch.stack([x, y]).detach(), torch.tensor([1.6, 1.1], dtype=torch.float64), rtol=0, atol=1e-14
    )


def test_refuses_a_negative_weight() -> None:
    with pytest.raises(ValueError, match="lower_weight is -1; expected 0 or more"):
        Joint(-1)
