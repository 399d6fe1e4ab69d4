from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from clipfuse.bilevel import Alternate
from clipfuse.errors import UserError
from clipfuse.losses.base import BilevelLoss, FusionLoss
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


class _Terms(BilevelLoss):
    """Other terms on other ranks: more, fewer, of another name, or the same in another order."""

    def __init__(self, level: str, names: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.level, self.names = level, names
        self.prompt = torch.nn.Parameter(torch.zeros(1))

    def lower_parameters(self) -> list[Tensor]:
        return [self.prompt]

    def prepare(self, inputs: LossInputs) -> Tensor:
        return inputs.fused

    def upper_loss(self, state: Tensor, lower: Any) -> LossOutput:
        return self._output("loss", state, lower)

    def lower_loss(self, state: Tensor, lower: Any) -> LossOutput:
        return self._output("lower loss", state, lower)

    def _output(self, level: str, state: Tensor, lower: Any) -> LossOutput:
        names = self.names[torch.distributed.get_rank()] if level == self.level else ["same"]
        total = (state - lower[0]).square().mean()
        return LossOutput(total, {name: total.detach() for name in names})


@pytest.mark.parametrize("level", ["loss", "lower loss"])
@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([["a", "b"], ["a"]], "a, b on rank 0; a on rank 1"),
        ([["a"], ["b"]], "a on rank 0; b on rank 1"),
        ([[], ["b"]], "none on rank 0; b on rank 1"),
        ([["a", "b"], ["b", "a"]], None),
    ],
)
def test_ranks_with_other_terms_are_one_error_on_all(
    ranks: Ranks, level: str, names: list[list[str]], found: str | None
) -> None:
    lines = ranks.run(_step_of_ranks, level, names)
    expected = f"' has other terms on other ranks at update 0: {found}; expected the same names on all"
    for line in lines:
        assert line == "no error" if found is None else line.startswith(f"the {level} '") and expected in line


def _step_of_ranks(level: str, names: list[list[str]]) -> str:
    image = torch.full((1, 1, 4, 4), 0.5)
    problem = LossProblem(_Terms(level, names), LossInputs(image, image, image))
    solver = Alternate(partial(torch.optim.SGD, lr=0.1), steps=1, every=1)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    try:
        solver.step(problem, optimizer, backward=lambda loss: problem.check_finite([parameter.detach()]))
    except UserError as error:
        return str(error)
    return "no error"


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
