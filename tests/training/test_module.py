"""The parts of the training module that need no training; the others are in test_training.py."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from clipfuse.bilevel import Alternate, Joint
from clipfuse.losses.base import BilevelLoss, FusionLoss
from clipfuse.training.module import FusionModule
from clipfuse.types import LossInputs, LossOutput


class _Loss(FusionLoss):
    def forward(self, inputs: LossInputs) -> LossOutput:
        return LossOutput(inputs.fused.mean(), {})


class _TwoLevels(BilevelLoss):
    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.2))

    def lower_parameters(self) -> list[Tensor]:
        return [self.level]

    def prepare(self, inputs: LossInputs) -> Any:
        return inputs.fused

    def upper_loss(self, state: Any, lower: Any) -> LossOutput:
        return LossOutput((state - lower[0]).square().mean(), {})

    lower_loss = upper_loss


def module(loss: FusionLoss | None = None, **options: Any) -> FusionModule:
    metrics = MetricCollection([])
    return FusionModule(
        nn.Conv2d(1, 1, 1), loss or _Loss(), torch.optim.Adam, Any, metrics, metrics, **options
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 0}, "accumulate is 0; expected 1 or more micro-batches"),
        ({"gradient_clip": 0.0}, "gradient_clip is 0.0; expected a norm above 0"),
        ({"input_noise": 1.5}, "input_noise is 1.5; expected a standard deviation from 0 to 1"),
        ({"input_noise": -0.1}, "input_noise is -0.1"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(**options)


def test_a_solver_of_its_own_takes_the_lower_level_from_the_optimiser() -> None:
    joint = module(_TwoLevels(), solver=Joint())
    alternate = module(_TwoLevels(), solver=Alternate(torch.optim.Adam))
    assert joint.loss.level.requires_grad
    assert not alternate.loss.level.requires_grad
    assert all(parameter.requires_grad for parameter in alternate.backbone.parameters())
