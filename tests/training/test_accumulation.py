"""Clipping by groups; accumulation itself is tested in whole trainings, test_training.py."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from clipfuse.losses.base import ParameterGroup
from clipfuse.training.accumulation import AccumulatingOptimizer
from clipfuse.training.parameter_groups import Group


def test_groups_with_a_bound_are_clipped_apart() -> None:
    values = {name: nn.Parameter(torch.zeros(2)) for name in ("network", "own", "free", "shared")}
    own = {"own": 0.5, "free": math.inf, "network": None, "shared": None}
    names = {"network": "", "own": "own", "free": "free", "shared": "shared"}
    groups = [
        Group(names[name], [value], ParameterGroup(gradient_clip=own[name])) for name, value in values.items()
    ]
    sgd = torch.optim.SGD(list(values.values()), lr=1.0)
    stepper = AccumulatingOptimizer(sgd, LambdaLR(sgd, lambda step: 1.0), groups, 1, 1.0)
    for value in values.values():
        value.grad = torch.tensor([3.0, 4.0])

    class Problem:
        def check_finite(self, gradients: Any) -> torch.Tensor:
            return torch.nn.utils.get_total_norm(gradients)

    stepper.check(Problem())  # type: ignore[arg-type]
    stepper.step()
    norms = {name: float(norm) for name, norm in stepper.gradient_norms.items()}
    assert norms == pytest.approx({"": math.sqrt(50), "own": 5.0, "free": 5.0})
    lengths = {name: float(value.detach().norm()) for name, value in values.items()}
    # Clipping divides by the norm plus 1e-6.
    expected = {"network": math.sqrt(0.5), "shared": math.sqrt(0.5), "own": 0.5, "free": 5.0}
    assert lengths == pytest.approx(expected, rel=1e-5)
