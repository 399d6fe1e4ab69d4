"""Learning rate, weight decay and clipping of a loss's own parameters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from clipfuse.errors import UserError, did_you_mean
from clipfuse.losses.base import FusionLoss, ParameterGroup


@dataclass(frozen=True)
class Group:
    """Parameters that learn, with what is their own.

    Attributes:
        name: as the loss names them; empty for the network and all that no group names.
        parameters: those that learn.
        own: their settings.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    own: ParameterGroup


def grouped(module: nn.Module, loss: FusionLoss) -> list[Group]:
    """Return the parameters of a training: first all that no group names, then the groups of the loss.

    Args:
        module: holds all parameters of the training, the loss among its parts.
        loss: the loss, whose `parameter_groups` are read.

    Raises:
        UserError: a group is no `ParameterGroup`, has a value out of range, names no parameter of the loss,
            or one that another group names as well.
    """
    groups = [Group(name, _named(loss, name, own), own) for name, own in _given(loss).items()]
    owner: dict[int, str] = {}
    for group in groups:
        for parameter in group.parameters:
            if id(parameter) in owner:
                raise UserError(
                    f"the loss '{loss.name}' has a parameter in two of its parameter_groups: "
                    f"{owner[id(parameter)]} and {group.name}; expected each in one"
                )
            owner[id(parameter)] = group.name
    rest = [each for each in module.parameters() if each.requires_grad and id(each) not in owner]
    return [Group("", rest, ParameterGroup()), *(group for group in groups if group.parameters)]


def _given(loss: FusionLoss) -> Mapping[str, ParameterGroup]:
    found: object = loss.parameter_groups()
    if not isinstance(found, Mapping) or not all(isinstance(each, ParameterGroup) for each in found.values()):
        raise UserError(
            f"parameter_groups of the loss '{loss.name}' returned {found!r:.200}; expected "
            "clipfuse.losses.base.ParameterGroup by the name of a parameter or part of the loss"
        )
    for name, group in found.items():
        for key, value in vars(group).items():
            allowed = "of 0 or more" if key == "weight_decay" else "above 0"
            number = isinstance(value, int | float) and (value > 0 or (value == 0 and key == "weight_decay"))
            if value is not None and not number:
                raise UserError(
                    f"parameter_groups of the loss '{loss.name}': {key} of {name!r} is {value!r}; expected a "
                    f"number {allowed}, or None for the training's own"
                )
    return found


def _named(loss: FusionLoss, name: str, own: ParameterGroup) -> list[nn.Parameter]:
    """Return the parameters of a name or below it that learn; a solver may have taken some of them."""
    known = dict(loss.named_parameters())
    found = [value for each, value in known.items() if each == name or each.startswith(f"{name}.")]
    if not found:
        parts = {
            ".".join(each.split(".")[:depth]) for each in known for depth in range(1, each.count(".") + 2)
        }
        raise UserError(
            f"parameter_groups of the loss '{loss.name}' names {name!r}, which is no parameter of it and no "
            f"part with any.{did_you_mean(name, parts)} Known are {', '.join(sorted(parts)[:12]) or 'none'}"
        )
    return [value for value in found if value.requires_grad]


def optimizer_of(make: Callable[..., Optimizer], groups: Sequence[Group]) -> Optimizer:
    """Build the optimiser; without groups of the loss it gets one list of parameters.

    Raises:
        UserError: the optimiser has no such setting.
    """
    if len(groups) == 1:
        return make(groups[0].parameters)
    nodes: list[dict[str, Any]] = []
    for group in groups:
        own = {"lr": group.own.lr, "weight_decay": group.own.weight_decay}
        given = {key: float(value) for key, value in own.items() if value is not None}
        nodes.append({"params": list(group.parameters), "name": group.name or "network", **given})
    optimizer = make(nodes)
    for node in nodes:
        if absent := node.keys() - {"params", "name"} - optimizer.defaults.keys():
            raise UserError(
                f"the loss gives {min(absent)} of its parameters {node['name']}, which the optimiser "
                f"{type(optimizer).__name__} does not have; take another optimizer, such as adamw"
            )
    return optimizer


def shown(loss: FusionLoss) -> dict[str, dict[str, float | None]]:
    """Return the groups of a loss in plain types, for the record of a run."""
    return {name: dict(vars(group)) for name, group in _given(loss).items()}
