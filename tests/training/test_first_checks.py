"""What is refused before the first update; the check of `GaussNewton` is in test_own_losses.py."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clipfuse.bilevel import Alternate, GaussNewton, Joint
from clipfuse.errors import UserError
from clipfuse.losses.base import BilevelLoss, FusionLoss
from clipfuse.training.first_checks import check_hypergradient, check_range, check_validation
from clipfuse.types import LossInputs, LossOutput


@pytest.mark.parametrize(("low", "high"), [(-0.02, 1.0), (0.0, 1.02), (float("nan"), 1.0)])
def test_an_output_outside_of_its_range_is_refused(low: float, high: float) -> None:
    with pytest.raises(UserError, match=r"the backbone Conv2d gives values from .*; expected \[0, 1\]"):
        check_range(nn.Conv2d(1, 1, 1), torch.tensor([low, 0.5, high]))


def test_the_rounding_of_bf16_is_within_the_range() -> None:
    check_range(nn.Conv2d(1, 1, 1), torch.tensor([-0.004, 1.004]))


class _Loss(FusionLoss):
    def forward(self, inputs: LossInputs) -> LossOutput:
        assert not self.training
        return LossOutput(inputs.fused.mean(), {"mean": inputs.fused.mean()})


def test_a_term_that_is_watched_must_exist(user_error: Any) -> None:
    plane, loss = torch.rand(1, 1, 4, 4), _Loss()
    inputs, own = LossInputs(plane, plane, plane), f"val/loss/{loss.name}"
    check_validation(loss, inputs, [None, f"{own}/mean", "val/metric/SSIM"], f"train/loss/{loss.name}/mean")
    assert loss.training
    line = user_error(check_validation, loss, inputs, [f"{own}/meen"], "")
    assert line.startswith(
        f"a callback watches {own}/meen, which is no term of the loss. Did you mean '{own}/mean'"
    )
    assert "the objective is" in user_error(check_validation, loss, inputs, [], f"{own}/other")


class _Lower(BilevelLoss):
    """A lower level of (inputs, level); what it looks at is given."""

    def __init__(self, look: Callable[[LossInputs], Tensor]) -> None:
        super().__init__()
        self.look = look
        self.level = nn.Parameter(torch.zeros(1))

    def lower_parameters(self) -> list[Tensor]:
        return [self.level]

    def prepare(self, inputs: LossInputs) -> LossInputs:
        return inputs

    def upper_loss(self, state: LossInputs, lower: Any) -> LossOutput:
        return LossOutput(state.fused.mean(), {})

    def lower_loss(self, state: LossInputs, lower: Any) -> LossOutput:
        total = (self.look(state) - lower[0]).square().mean()
        return LossOutput(total, {"gap": total.detach()})


def test_a_lower_loss_that_no_validation_can_compute_is_refused(user_error: Any) -> None:
    def penalty(inputs: LossInputs) -> Tensor:
        return torch.autograd.grad(inputs.fused.square().sum(), inputs.fused)[0]

    loss, inputs = _Lower(lambda inputs: inputs.visible), _sample()
    check_validation(loss, inputs, [f"val/lower/{loss.name}/gap"], f"train/lower/{loss.name}/gap")
    line = user_error(check_validation, loss, inputs, [f"val/lower/{loss.name}/gab"], "")
    assert f"Did you mean 'val/lower/{loss.name}/gap'" in line
    line = user_error(check_validation, _Lower(penalty), inputs, [], "val/metric/SSIM")
    assert "failed before the first update" in line
    assert "without gradient, that of `lower_loss` too" in line


GAUSS_NEWTON = GaussNewton(torch.optim.Adam)


@pytest.mark.parametrize(
    "look",
    [
        lambda inputs: inputs.fused,
        lambda inputs: inputs.features["deep"],
        lambda inputs: inputs.fused_chroma,
        lambda inputs: inputs.fused if inputs.step == 0 else inputs.visible,
        lambda inputs: inputs.fused if inputs.step == 9 else inputs.visible,
    ],
)
def test_what_looks_at_the_network_in_any_way_may_have_a_hypergradient(look: Any) -> None:
    check_hypergradient(_Lower(look), _sample(), GAUSS_NEWTON)


def test_what_never_looks_is_refused_for_the_solver_that_needs_it(user_error: Any) -> None:
    blind = _Lower(lambda inputs: inputs.visible)
    line = user_error(check_hypergradient, blind, _sample(), GAUSS_NEWTON)
    assert line.endswith("solver=alternate; take that, or let lower_loss depend on inputs.fused")
    for solver in (Alternate(torch.optim.Adam), GaussNewton(torch.optim.Adam, eta=0.0), Joint()):
        check_hypergradient(blind, _sample(), solver)


def test_a_first_stage_that_outlasts_the_training_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    late = _Lower(lambda inputs: inputs.fused if inputs.step >= 10 else inputs.visible)
    with caplog.at_level(logging.WARNING):
        check_hypergradient(late, _sample(), GAUSS_NEWTON)
    assert "looks at the network only after the 10 updates of this run" in caplog.text


def _sample() -> LossInputs:
    plane = torch.rand(1, 1, 4, 4)
    return LossInputs(plane.clone(), plane, plane, features={"deep": plane.clone()}, total_steps=10)
