"""What a training refuses before its first update, from one training crop."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from clipfuse.bilevel import GaussNewton, Solver
from clipfuse.errors import UserError, did_you_mean
from clipfuse.losses.base import BilevelLoss, FusionLoss
from clipfuse.ops.modes import evaluating
from clipfuse.training.loss_errors import VALIDATION, named_failures
from clipfuse.training.stepping import LossProblem, both_levels, lower_parameters
from clipfuse.types import LossInputs

log = logging.getLogger(__name__)

_LATE = 10**9  # an update after any first stage
RANGE_ERROR = 0.01  # by which a network in bf16 may leave [0, 1]


def check_range(backbone: nn.Module, fused: Tensor) -> None:
    """Require fused images in [0, 1], but for rounding.

    Raises:
        UserError: names the network and its range.
    """
    low, high = (float(value) for value in fused.aminmax())
    if not -RANGE_ERROR <= low <= high <= 1 + RANGE_ERROR:
        raise UserError(
            f"the backbone {type(backbone).__name__} gives values from {low:g} to {high:g} before the first "
            "update; expected [0, 1]: let it end in a sigmoid"
        )


def check_validation(loss: FusionLoss, inputs: LossInputs, monitors: Sequence[Any], objective: str) -> None:
    """Refuse to watch a term which the loss does not have, and a lower loss that no validation can compute.

    Args:
        loss: the loss.
        inputs: a training crop.
        monitors: what callbacks watch; what is no text is passed over.
        objective: the score of the run.

    Raises:
        UserError: names the term that is watched, and those of the loss; or what the lower loss raised.
    """
    upper, lower = own = (f"val/loss/{loss.name}/", f"val/lower/{loss.name}/")
    objective = objective.replace("train/", "val/", 1)
    watched = [each for each in (*monitors, objective) if isinstance(each, str) and each.startswith(own)]
    if not watched and not lower_parameters(loss):
        return
    advice = f"{VALIDATION}, that of `lower_loss` too"
    with (
        evaluating(loss),
        _kept(loss),
        torch.no_grad(),
        named_failures(loss, inputs, "before the first update", advice),
    ):
        output, terms = both_levels(loss, inputs)
    known = [upper + term for term in output.terms] + [lower + term for term in terms]
    for name in watched:
        if name not in known:
            near = did_you_mean(name, known)
            who = "the objective is" if name == objective else "a callback watches"
            raise UserError(
                f"{who} {name}, which is no term of the loss.{near} Its terms: {', '.join(known)}"
            )


def check_hypergradient(loss: FusionLoss, inputs: LossInputs, solver: Solver) -> None:
    """Refuse `GaussNewton` where the lower loss never looks at the network: it would be `Alternate`.

    The first update is tried, the last, and one long after any first stage, which may hide the network from
    the lower loss; a first stage that outlasts the training is a warning. The loss keeps its state.

    Args:
        loss: the loss.
        inputs: a training crop.
        solver: of the training.

    Raises:
        UserError: the lower loss has no gradient in the network in any of them.
    """
    if type(solver) is not GaussNewton or not solver.eta or not isinstance(loss, BilevelLoss):
        return
    inputs = replace(
        inputs,
        fused=inputs.fused.detach().requires_grad_(),
        features={name: value.detach().requires_grad_() for name, value in inputs.features.items()},
        fused_chroma=inputs.fused_chroma.detach().requires_grad_(),
    )
    last = (inputs.total_steps or 1) - 1
    looks = []
    with _kept(loss), torch.enable_grad():
        for step in (0, last, _LATE):
            problem = LossProblem(loss, replace(inputs, step=step))
            lower = [value.detach() for value in problem.lower_parameters()]
            looks.append(problem.lower_loss(lower).requires_grad)
    if not any(looks[:2]) and looks[2]:
        log.warning(
            "the lower loss '%s' looks at the network only after the %d updates of this run: "
            "solver=gauss_newton is solver=alternate here; lower the warm-up of the loss, or raise steps",
            *(loss.name, last + 1),
        )
    elif not any(looks):
        raise UserError(
            f"the lower loss '{loss.name}' does not look at the network, in the first update, the last or "
            "later: the correction of solver=gauss_newton is 0, and this would be the training of "
            "solver=alternate; take that, or let lower_loss depend on inputs.fused"
        )


@contextmanager
def _kept(loss: FusionLoss) -> Iterator[None]:
    """Put the state of the loss and of the random generators back at the end."""
    state = {
        name: value.clone() if isinstance(value, Tensor) else value
        for name, value in loss.state_dict().items()
    }
    with torch.random.fork_rng():
        yield
    loss.load_state_dict(state)
