"""One line for what a loss raises; in whole trainings: test_own_losses.py."""

from typing import Any

import pytest
import torch

from clipfuse.errors import UserError
from clipfuse.losses.base import FusionLoss
from clipfuse.losses.weighted_sum import WeightedSum
from clipfuse.training.loss_errors import named_failures
from clipfuse.types import LossInputs, LossOutput

INPUTS = LossInputs(*torch.rand(3, 1, 1, 5, 6), sample_ids=("a",), step=7)


class Mean(FusionLoss):
    def forward(self, inputs: LossInputs) -> LossOutput:
        return LossOutput(inputs.fused.mean(), {})


class Odd(FusionLoss):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, inputs: LossInputs) -> LossOutput:
        return _helper(self.error)


def _helper(error: Exception) -> LossOutput:
    raise error


def call(loss: FusionLoss, *arguments: Any, **named: Any) -> None:
    with named_failures(loss, *arguments, **named):
        loss(INPUTS)


def test_the_part_of_a_sum_that_raised_is_named_with_its_line() -> None:
    loss = WeightedSum({"one": 1.0, "two": 1.0}, {"one": Mean(), "two": Odd(IndexError("out of\n range"))})
    with pytest.raises(UserError) as caught:
        call(loss, INPUTS)
    line = Odd.forward.__code__.co_firstlineno + 5
    assert str(caught.value) == (
        f"the loss '{Odd(ValueError()).name}' failed at update 7 on samples a of 6x5 pixels: IndexError: "
        f"out of range (test_loss_errors.py, line {line}); traceback.txt in the run folder has the stack"
    )
    assert isinstance(caught.value.__cause__, IndexError)


@pytest.mark.parametrize(
    "error",
    [
        *(
            UserError("mine"),
            MemoryError(),
            RuntimeError("you tried to allocate 8 bytes"),
            KeyboardInterrupt(),
        ),
        RuntimeError("[gloo/transport/tcp/pair.cc:545] Connection closed by peer"),
    ],
)
def test_what_has_an_explanation_of_its_own_passes(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        call(Odd(error), INPUTS)
    assert caught.value is error


def test_when_and_advice_are_the_callers() -> None:
    with pytest.raises(UserError, match=r"failed in its notes: ValueError: x .*; look; traceback\.txt"):
        call(Odd(ValueError("x")), None, "in its notes", "; look")
