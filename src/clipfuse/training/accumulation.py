"""The optimiser that a solver gets: several micro-batches to an update."""

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.lr_scheduler import LRScheduler

from clipfuse.bilevel import UpperOptimizer
from clipfuse.training.parameter_groups import Group
from clipfuse.training.stepping import LossProblem


class AccumulatingOptimizer:
    """The optimiser that a solver gets: it accumulates, checks, clips, steps and schedules.

    Args:
        optimizer: the optimiser of the network.
        scheduler: stepped once per update.
        groups: the parameters whose gradient is checked and clipped; those with a bound of their own are
            clipped apart from the others.
        accumulate: micro-batches per update, 1 or more.
        gradient_clip: largest allowed L2 norm of the gradient; None does not clip.

    Attributes:
        micro_batch: micro-batches since the last update; a training is stopped and saved only at 0.
        skipped: whether the last update was skipped.
        gradient_norms: norms before clipping at the last update, by the names of groups with a bound of
            their own, and of all others under an empty name; without clipping none.
    """

    def __init__(
        self,
        optimizer: UpperOptimizer,
        scheduler: LRScheduler,
        groups: Sequence[Group],
        accumulate: int,
        gradient_clip: float | None,
    ) -> None:
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.parameters = [each for group in groups for each in group.parameters]
        self.accumulate = accumulate
        self.micro_batch = 0
        self._clipped: list[tuple[str, list[nn.Parameter], float]] = []
        apart = [group for group in groups if group.own.gradient_clip is not None]
        rest = [each for group in groups if group not in apart for each in group.parameters]
        if gradient_clip is not None:
            self._clipped.append(("", rest, gradient_clip))
        for group in apart:
            self._clipped.append((group.name, list(group.parameters), group.own.gradient_clip or math.inf))
        self._left_out = self.skipped = False
        self._norm: Tensor | None = None
        self.gradient_norms: dict[str, Tensor] = {}

    def zero_grad(self) -> None:
        """Clear the gradients, unless micro-batches are being accumulated."""
        if self.micro_batch == 0:
            self.optimizer.zero_grad()

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next update."""
        return float(self.scheduler.get_last_lr()[0])

    @property
    def updates_next(self) -> bool:
        """Whether the next `step` is an update of the network."""
        return self.micro_batch == self.accumulate - 1

    def check(self, problem: LossProblem) -> None:
        """Require finite losses and a finite gradient before `step`; raises as `LossProblem.check_finite`."""
        gradients = [each.grad for each in self.parameters if each.grad is not None]
        self._norm = problem.check_finite(gradients)

    def step(self) -> None:
        """Count a micro-batch; after the last one clip, update the network and its learning rate."""
        self.micro_batch = (self.micro_batch + 1) % self.accumulate
        if self.micro_batch:
            return
        self.skipped, self._left_out = self._left_out, False
        if self.skipped:
            self.optimizer.zero_grad()  # an optimiser changes neither weights nor moments without gradient
        else:
            self._clip()
        self.optimizer.step()
        self.scheduler.step()

    def _clip(self) -> None:
        for name, parameters, bound in self._clipped:
            norm = self._norm
            if len(parameters) < len(self.parameters):  # else it has been computed
                norm = get_total_norm([each.grad for each in parameters if each.grad is not None])
            assert norm is not None
            self.gradient_norms[name] = norm
            if bound < math.inf:
                clip_grads_with_norm_(parameters, bound, norm)

    def leave_out(self) -> None:
        """Count a micro-batch of an update that is skipped: only the learning rate changes."""
        self._left_out = True
        self.optimizer.zero_grad()  # else the next micro-batch would add to what is not finite
        self.step()
