"""The contract must see what breaks it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from clipfuse.errors import UserError
from clipfuse.losses.base import FusionLoss
from clipfuse.testing.loss_contract import LossContract, example_inputs
from clipfuse.types import LossInputs, LossOutput


class _Wrong(FusionLoss):
    def __init__(self, total: Callable[[LossInputs], Tensor], detach: bool = True) -> None:
        super().__init__()
        self.total = total
        self.detach = detach

    def forward(self, inputs: LossInputs) -> LossOutput:
        total = self.total(inputs)
        return LossOutput(total, {"term": total.detach() if self.detach else total})


def _writes(inputs: LossInputs) -> Tensor:
    inputs.visible.mul_(0.5)
    return (inputs.fused - inputs.visible).abs().mean()


@pytest.mark.parametrize(
    ("total", "check"),
    [
        (lambda i: i.fused.mean((1, 2, 3)), "test_returns_a_finite_scalar_and_detached_terms"),
        (lambda i: i.visible.mean(), "test_returns_a_finite_scalar_and_detached_terms"),
        (lambda i: i.fused[:2].mean(), "test_gradient_reaches_each_fused_image"),
        (_writes, "test_leaves_its_inputs_and_the_global_state_alone"),
        (lambda i: i.fused.mean() * torch.rand(()), "test_leaves_its_inputs_and_the_global_state_alone"),
        (lambda i: i.fused.mean() * torch.rand(()), "test_the_same_seed_step_and_samples_give_the_same"),
        (lambda i: (i.fused - i.fused.detach()).sum(), "test_falls_in_twenty_steps_of_descent"),
        (lambda i: (i.fused[0] - i.visible[0]).abs().mean(), "test_the_order_of_samples_does_not_matter"),
    ],
)
def test_sees_what_is_wrong(total: Callable[[LossInputs], Tensor], check: str) -> None:
    with pytest.raises((AssertionError, UserError)):
        getattr(LossContract(), check)(_Wrong(total), example_inputs())


def test_sees_terms_with_a_graph_and_values_that_are_not_finite() -> None:
    contract, inputs = LossContract(), example_inputs()
    with pytest.raises(AssertionError):
        contract.test_returns_a_finite_scalar_and_detached_terms(
            _Wrong(lambda i: i.fused.mean(), detach=False), inputs
        )
    divided = _Wrong(lambda i: ((i.fused - i.visible) / (i.fused - i.visible).norm()).sum())
    contract.test_returns_a_finite_scalar_and_detached_terms(divided, inputs)
    with pytest.raises(AssertionError):
        contract.test_odd_images_are_finite(divided, inputs, "fused is visible")


def test_sees_a_network_in_the_checkpoint() -> None:
    loss = _Wrong(lambda i: i.fused.mean())
    loss.register_buffer("clip", torch.zeros(2**23 + 1))
    with pytest.raises(AssertionError, match="a frozen network in the checkpoint"):
        LossContract().test_state_round_trips({}, loss, replace(example_inputs()))
