"""Rates, decay and clipping of a loss's own parameters; in a training: test_own_losses.py."""

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from clipfuse.losses.base import FusionLoss, ParameterGroup
from clipfuse.losses.weighted_sum import WeightedSum
from clipfuse.training.parameter_groups import grouped, optimizer_of, shown
from clipfuse.types import LossInputs, LossOutput


class Learns(FusionLoss):
    def __init__(self, groups: Any = None) -> None:
        super().__init__()
        self.net, self.scale = nn.Linear(2, 2), nn.Parameter(torch.ones(3))
        self.groups = groups or {}

    def parameter_groups(self) -> Mapping[str, ParameterGroup]:
        return self.groups

    def forward(self, inputs: LossInputs) -> LossOutput:
        raise NotImplementedError


def module(loss: FusionLoss) -> nn.Module:
    return nn.ModuleDict({"backbone": nn.Linear(3, 1), "loss": loss})


def test_without_groups_the_optimiser_gets_one_list() -> None:
    whole = module(Learns())
    groups = grouped(whole, whole["loss"])
    assert [list(map(id, group.parameters)) for group in groups] == [list(map(id, whole.parameters()))]
    plain, ours = torch.optim.AdamW(list(whole.parameters())), optimizer_of(torch.optim.AdamW, groups)
    assert ours.state_dict() == plain.state_dict()
    assert shown(whole["loss"]) == {}


def test_each_group_has_its_own_values_and_the_rest_those_of_the_network() -> None:
    loss = Learns({"net": ParameterGroup(lr=0.5, weight_decay=0), "scale": ParameterGroup(gradient_clip=2)})
    whole = module(loss)
    groups = grouped(whole, loss)
    optimizer = optimizer_of(partial(torch.optim.AdamW, lr=0.1, weight_decay=0.01), groups)
    found = [(each["name"], each["lr"], each["weight_decay"]) for each in optimizer.param_groups]
    assert found == [("network", 0.1, 0.01), ("net", 0.5, 0.0), ("scale", 0.1, 0.01)]
    assert [len(each["params"]) for each in optimizer.param_groups] == [2, 2, 1]
    LambdaLR(optimizer, lambda step: 0.5)
    assert [each["lr"] for each in optimizer.param_groups] == [0.05, 0.25, 0.05]
    assert shown(loss)["net"] == {"lr": 0.5, "weight_decay": 0, "gradient_clip": None}


def test_parts_of_a_sum_keep_their_groups() -> None:
    loss = WeightedSum({"a": 1.0}, {"a": Learns({"net.weight": ParameterGroup(lr=0.5)})})
    (_, group) = grouped(module(loss), loss)
    assert group.name == "of.a.net.weight"
    assert group.parameters[0] is loss.parts["a"].get_parameter("net.weight")


def test_parameters_that_a_solver_moves_are_left_to_it() -> None:
    loss = Learns({"net": ParameterGroup(lr=0.5)})
    loss.net.requires_grad_(False)
    assert [group.name for group in grouped(module(loss), loss)] == [""]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"nets": ParameterGroup()}, "names 'nets', which is no parameter of it .* Did you mean 'net'?"),
        ({"ne": ParameterGroup()}, "names 'ne', which is no parameter"),
        (
            {"net": ParameterGroup(), "net.bias": ParameterGroup()},
            "in two of its parameter_groups: net and net",
        ),
        ({"net": {"lr": 1}}, "expected clipfuse.losses.base.ParameterGroup by the name"),
        ({"net": ParameterGroup(lr=0)}, "lr of 'net' is 0; expected a number above 0"),
        (
            {"net": ParameterGroup(weight_decay=-1)},
            "weight_decay of 'net' is -1; expected a number of 0 or more",
        ),
        ({"net": ParameterGroup(gradient_clip=math.nan)}, "gradient_clip of 'net' is nan; expected"),
    ],
)
def test_bad_groups_are_refused(groups: Any, message: str, user_error: Any) -> None:
    loss = Learns(groups)
    line = user_error(grouped, module(loss), loss)
    assert re.search(message, line), line


def test_an_optimiser_without_the_setting_is_refused(user_error: Any) -> None:
    loss = Learns({"net": ParameterGroup(weight_decay=0.1)})
    line = user_error(optimizer_of, partial(torch.optim.Rprop, lr=0.1), grouped(module(loss), loss))
    assert line.startswith(
        "the loss gives weight_decay of its parameters net, which the optimiser Rprop does not"
    )
