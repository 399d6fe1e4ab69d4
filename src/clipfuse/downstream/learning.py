"""How every task network is trained, whatever the source of its images.

AdamW; the learning rate rises linearly over the first twentieth of the updates, then falls along half a
cosine to zero. The order of the images is a new permutation for each pass; images and labels are moved by
`clipfuse.downstream.augmentation`. Order, moves and the network's own random draws depend on the seed, the
update and the names alone: all sources of images are trained alike, and a repeated training on the CPU gives
the same numbers. On the CPU it takes one thread, since sums of several would depend on how many there are.
Own design; warm-up and decay as in the training recipes of torchvision.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from statistics import fmean

import torch
from torch import nn

from clipfuse.downstream.augmentation import augmented
from clipfuse.downstream.base import Example, Progress, Task
from clipfuse.errors import UserError
from clipfuse.ops.seeding import derived_seed

POINTS = 50  # of a curve of losses
_WARM_UP = 0.05


def learn(
    task: Task, network: nn.Module, examples: Sequence[Example], seed: int, progress: Progress | None = None
) -> list[float]:
    """Train the network in place, on the device where it is, and leave it in evaluation mode.

    Args:
        task: gives loss, `updates`, `batch_size`, `learning_rate`, `weight_decay`, `crop` and `scale`.
        network: from `task.build`.
        examples: of one number of channels; their sizes may differ.
        seed: of the task; decides all draws.
        progress: called after each update with the updates done and their number.

    Returns:
        The loss of each update.

    Raises:
        UserError: the loss is no finite number any more.
    """
    size = task.crop or [min(each.image.shape[side] for each in examples) for side in (1, 2)]
    device = next(network.parameters()).device
    task.prepare(network, examples)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=task.learning_rate, weight_decay=task.weight_decay, foreach=True
    )
    network.train()
    losses = []
    with own_randomness():
        for update, chosen in enumerate(order(len(examples), task.batch_size, task.updates, seed)):
            moved = [
                augmented(examples[index], size, task.scale, seed, update, examples[index].name)
                for index in chosen
            ]
            images = torch.stack([each.image for each in moved]).to(device).float().div_(255)
            torch.manual_seed(derived_seed(seed, update, "network"))
            for group in optimizer.param_groups:
                group["lr"] = task.learning_rate * factor(update, task.updates)
            loss = task.loss(network, images.contiguous(memory_format=torch.channels_last), moved)
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise UserError(
                    f"the loss of {task.name} is {losses[-1]} after {update} updates; lower "
                    f"downstream.learning_rate (now {task.learning_rate:g})"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if progress is not None:
                progress(update + 1, task.updates)
    network.eval()
    return losses


def curve(losses: Sequence[float]) -> list[float]:
    """Return the mean loss of each of at most `POINTS` equal parts of a training."""
    count = min(POINTS, len(losses))
    edges = [round(part * len(losses) / count) for part in range(count + 1)] if count else []
    return [fmean(losses[low:high]) for low, high in pairwise(edges)]


def order(count: int, batch_size: int, updates: int, seed: int) -> Iterator[list[int]]:
    """Yield the indices of each update: one permutation of all images after the other, cut into batches."""
    waiting: list[int] = []
    passes = 0
    for _ in range(updates):
        while len(waiting) < batch_size:
            generator = torch.Generator().manual_seed(derived_seed(seed, "order", passes))
            waiting += torch.randperm(count, generator=generator).tolist()
            passes += 1
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


def factor(update: int, updates: int) -> float:
    """Return by what the highest learning rate is multiplied at an update, in (0, 1]."""
    warm = max(1, round(_WARM_UP * updates))
    if update < warm:
        return (update + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (update - warm) / max(1, updates - warm)))


@contextmanager
def own_randomness() -> Iterator[None]:
    """Run on one thread, and give the global random state back as it was."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
