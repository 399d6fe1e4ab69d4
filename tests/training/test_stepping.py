from typing import Any

import torch

from clipfuse.losses.base import FusionLoss
from clipfuse.testing.ranks import Ranks
from clipfuse.training.stepping import LossProblem, NonFiniteLossError
from clipfuse.types import LossInputs, LossOutput


def test_a_nan_on_one_rank_is_refused_by_all(ranks: Ranks) -> None:
    assert ranks.run(_one_rank_has_nan) == [True, True]


def _one_rank_has_nan() -> bool:
    image = torch.full((1, 1, 4, 4), float("nan") if torch.distributed.get_rank() else 0.5)
    bands = {"infrared": image, "visible": image, "chroma": image.expand(1, 2, 4, 4)}
    inputs = LossInputs(fused=image, features={}, sample_ids=("a",), step=0, seed=0, **bands)
    problem = LossProblem(_Mean(), inputs)
    problem.upper_loss(())
    try:
        problem.check_finite([torch.zeros(1)])
    except NonFiniteLossError:
        return True
    return False


class _Mean(FusionLoss):
    def forward(self, inputs: LossInputs) -> LossOutput:
        return LossOutput(inputs.fused.mean(), {})


class _Detached(FusionLoss):
    def forward(self, inputs: LossInputs) -> LossOutput:
        return LossOutput(inputs.fused.detach().mean(), {})


def test_a_total_without_gradient_names_the_class(user_error: Any) -> None:
    image = torch.rand(1, 1, 4, 4)
    problem = LossProblem(_Detached(), LossInputs(image.clone().requires_grad_(), image, image))
    line = user_error(problem.upper_loss, ())
    assert line.startswith("the total of the loss _Detached has no gradient; expected one that depends on")
    with torch.no_grad():
        assert problem.upper_loss(()).isfinite()
