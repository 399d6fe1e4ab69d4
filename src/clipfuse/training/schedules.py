"""Learning-rate schedules: functions of the update counter alone, so that a resumed run continues them."""

import math
from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def _after_warmup(
    optimizer: Optimizer, steps: int, warmup: float, final: float, shape: Callable[[int, int], float]
) -> LambdaLR:
    """Rise linearly, then follow `shape(update, updates of the warm-up)`, both as shares of the peak."""
    for key, share in {"warmup": warmup, "final": final}.items():
        if not 0 <= share <= 1:
            raise ValueError(f"scheduler.{key} is {share}; expected a share from 0 to 1")
    rising = round(warmup * steps)
    return LambdaLR(optimizer, lambda step: (step + 1) / rising if step < rising else shape(step, rising))


def constant(optimizer: Optimizer, steps: int, warmup: float = 0.0) -> LambdaLR:
    """Keep the learning rate after a linear warm-up over the share `warmup` of all updates."""
    return _after_warmup(optimizer, steps, warmup, 1.0, lambda step, rising: 1.0)


def cosine(optimizer: Optimizer, steps: int, warmup: float = 0.05, final: float = 0.01) -> LambdaLR:
    """Warm up linearly, then fall along half a cosine.

    Args:
        optimizer: what to schedule.
        steps: number of updates in the whole run.
        warmup: share of `steps` spent rising from 0, in [0, 1].
        final: learning rate at the end as a share of the peak, in [0, 1].

    Raises:
        ValueError: a share is outside [0, 1].
    """

    def shape(step: int, rising: int) -> float:
        progress = min(1.0, (step - rising) / max(1, steps - rising))
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

    return _after_warmup(optimizer, steps, warmup, final, shape)


def milestones(
    optimizer: Optimizer,
    steps: int,
    warmup: float = 0.01,
    at: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9),
    factor: float = 0.5,
) -> LambdaLR:
    """Warm up linearly, keep the rate, and multiply it at each milestone.

    The defaults are the schedule of LDFusion's release: one of 100 epochs to warm up, halved at epochs 50,
    60, 70, 80 and 90. Its own code steps both schedules in the first epoch alone, so its rate never falls.
    PromptFusion's release halves the rate every 20 of its 120 epochs, without a warm-up: `warmup=0.0` and
    `at=[0.167, 0.333, 0.5, 0.667, 0.833]`.

    Args:
        optimizer: what to schedule.
        steps: number of updates in the whole run.
        warmup: share of `steps` spent rising from 0, in [0, 1].
        at: milestones as shares of `steps`, in [0, 1].
        factor: in (0, 1].

    Raises:
        ValueError: a share is outside [0, 1], or `factor` outside (0, 1].
    """
    if not all(0 <= share <= 1 for share in at):
        raise ValueError(f"scheduler.at is {list(at)}; expected shares of the run from 0 to 1")
    if not 0 < factor <= 1:
        raise ValueError(f"scheduler.factor is {factor}; expected above 0, at most 1")

    def shape(step: int, rising: int) -> float:
        return float(factor ** sum(step >= round(share * steps) for share in at))

    return _after_warmup(optimizer, steps, warmup, 1.0, shape)
