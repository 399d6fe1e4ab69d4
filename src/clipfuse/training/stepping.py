"""The one path by which every loss updates the network: a problem, a solver, an optimiser."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.optim.lr_scheduler import LRScheduler

from clipfuse.bilevel import UpperOptimizer
from clipfuse.errors import UserError
from clipfuse.losses.base import BilevelLoss, FusionLoss
from clipfuse.types import LossInputs, LossOutput


def lower_parameters(loss: FusionLoss) -> Sequence[Tensor]:
    """Return the parameters of the loss's own lower level; none for a plain loss."""
    return loss.lower_parameters() if isinstance(loss, BilevelLoss) else ()


class NonFiniteLossError(UserError):
    """A loss is NaN or infinite; the message names its terms and the samples."""


class LossProblem:
    """One batch under one loss as a `BilevelProblem`; a plain loss has an empty lower level.

    Args:
        loss: the plugin.
        inputs: what the loss may look at.
        agree: a loss that is not finite on one rank is refused on all of them, which costs a collective per
            evaluation.

    Attributes:
        output: last output of the upper loss, for the log.
    """

    output: LossOutput

    def __init__(self, loss: FusionLoss, inputs: LossInputs, agree: bool = False) -> None:
        self.loss = loss
        self.inputs = inputs
        self.agree = agree
        self.state: Any = loss.prepare(inputs) if isinstance(loss, BilevelLoss) else None

    def lower_parameters(self) -> Sequence[Tensor]:
        """Return the loss's own lower level."""
        return lower_parameters(self.loss)

    def upper_loss(self, lower: Sequence[Tensor]) -> Tensor:
        """Return F, scalar, and keep its terms in `output`."""
        if isinstance(self.loss, BilevelLoss):
            self.output = self.loss.upper_loss(self.state, lower)
        else:
            self.output = self.loss(self.inputs)
        self._check_finite(self.output)
        return self.output.total

    def lower_loss(self, lower: Sequence[Tensor]) -> Tensor:
        """Return f, scalar; raises UserError for a loss without a lower level."""
        if not isinstance(self.loss, BilevelLoss):
            raise UserError(
                f"the loss '{self.loss.name}' has no lower level; train it with the solver 'joint'"
            )
        output = self.loss.lower_loss(self.state, lower)
        self._check_finite(output)
        return output.total

    def _check_finite(self, output: LossOutput) -> None:
        finite = torch.isfinite(output.total.detach())
        if self.agree and distributed.is_available() and distributed.is_initialized():
            finite = finite.int()
            distributed.all_reduce(finite, distributed.ReduceOp.MIN)
        if finite:
            return
        total = float(output.total.detach())
        terms = ", ".join(f"{name} = {float(term):.4g}" for name, term in output.terms.items())
        samples = ", ".join(self.inputs.sample_ids[:4])
        raise NonFiniteLossError(
            f"the loss '{self.loss.name}' is {total} at update {self.inputs.step} ({terms}) "
            f"on samples {samples}; lower optimizer.lr or gradient_clip, or look at these samples"
        )


class AccumulatingOptimizer:
    """The optimiser a solver sees: accumulates, clips, steps and schedules.

    Args:
        optimizer: of the network.
        scheduler: stepped once per update.
        parameters: those whose gradient is clipped.
        accumulate: micro-batches per update, 1 or more.
        gradient_clip: largest allowed L2 norm of the gradient; None: no limit.

    Attributes:
        micro_batch: micro-batches since the last update; a run stops and is saved only where this is 0.
        gradient_norm: norm before clipping at the last update, None without clipping.
    """

    def __init__(
        self,
        optimizer: UpperOptimizer,
        scheduler: LRScheduler,
        parameters: Iterable[nn.Parameter],
        accumulate: int,
        gradient_clip: float | None,
    ) -> None:
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.parameters = list(parameters)
        self.accumulate = accumulate
        self.gradient_clip = gradient_clip
        self.micro_batch = 0
        self._left_out = False
        self.gradient_norm: Tensor | None = None

    def zero_grad(self) -> None:
        """Clear the gradients, unless micro-batches are being accumulated."""
        if self.micro_batch == 0:
            self.optimizer.zero_grad()

    @property
    def updates_next(self) -> bool:
        """Whether the next `step` updates the network."""
        return self.micro_batch == self.accumulate - 1

    def step(self) -> None:
        """Count a micro-batch; after the last one clip, update the network and its learning rate."""
        self.micro_batch = (self.micro_batch + 1) % self.accumulate
        if self.micro_batch:
            return
        if self._left_out:
            self.optimizer.zero_grad()  # parameters without gradient keep their values and moments
            self._left_out = False
        elif self.gradient_clip is not None:
            self.gradient_norm = nn.utils.clip_grad_norm_(self.parameters, self.gradient_clip)
        self.optimizer.step()
        self.scheduler.step()

    def leave_out(self) -> None:
        """Count a micro-batch, and let its whole update change nothing but the learning rate."""
        self._left_out = True
        self.step()
