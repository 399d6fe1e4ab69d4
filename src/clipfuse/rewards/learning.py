"""How a scorer learns from comparisons: a logistic loss on differences (Bradley and Terry, 1952)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clipfuse.rewards.network import RewardNetwork

SHRINK = 1e-3  # weight of the squared logits: differences alone leave their level free
KEEP = 0.3  # weight of the distance from the network that the training started from
_PUSH = (0.002, 0.012)  # greatest change of a pixel by an image that is made to deceive


@dataclass(frozen=True)
class Comparisons:
    """Some pairs of fused images, and which of each is better.

    Attributes:
        first: (N, 1, H, W) in [0, 1].
        second: the same shape.
        infrared: the same shape.
        visible: the same shape.
        wins: (N, K): 1 where the first image is better by that score, 0 where the second one is, 0.5 for a
            tie, NaN where it is not decided.
        where: artefacts of the second image, (N, 1, H, W) in [0, 1], NaN where they are not known; the first
            one of such a pair has none. None: of no pair.
    """

    first: Tensor
    second: Tensor
    infrared: Tensor
    visible: Tensor
    wins: Tensor
    where: Tensor | None = None


def preference_loss(first: Tensor, second: Tensor, wins: Tensor) -> Tensor:
    """Return -mean[w log p + (1 - w) log(1 - p)], p = sigmoid(first - second), over what is decided.

    Source: Bradley and Terry (Biometrika 39, 1952); a tie is half a win of each, as in Davidson and Beaver's
    simplest treatment (Biometrics 33, 1977).

    Args:
        first: logits, (N, K).
        second: the same shape.
        wins: as in `Comparisons`.

    Returns:
        A scalar; 0 if nothing is decided.
    """
    known = ~wins.isnan()
    cost = F.binary_cross_entropy_with_logits(first - second, wins.nan_to_num(), reduction="none")
    return (cost * known).sum() / known.sum().clamp(min=1)


def learn(
    network: RewardNetwork,
    draw: Callable[[int], Comparisons],
    updates: int,
    learning_rate: float = 2e-3,
    deceive_every: int = 0,
    start: RewardNetwork | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> list[float]:
    """Train a network in place, by AdamW with a linear warm-up and a cosine decay.

    In the second half, every `deceive_every` updates, the second images are replaced by the first ones after
    a step of at most 0.002 to 0.012 per pixel in the direction that raises the network's own scores, and the
    first ones are better by every score: what a fusion network would do to deceive the scorer becomes a
    defect (adversarial training after Goodfellow et al., ICLR 2015).

    Args:
        network: on the device of what `draw` returns.
        draw: update -> comparisons.
        updates: number of updates, 1 or more.
        learning_rate: the greatest.
        deceive_every: see above; 0: never.
        start: what the network was before: its map, and its scores by the same names in pairs where they
            are not decided, are kept near its own by their squared distance. None: nothing is kept.
        advance: called with 1 after each update.

    Returns:
        The losses.
    """
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=1e-2)
    warm = max(1, min(50, updates // 5))

    def rate(update: int) -> float:
        return min(
            (update + 1) / warm, 0.5 + 0.5 * float(torch.cos(torch.tensor(torch.pi * update / updates)))
        )

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    losses = []
    network.train()
    for update in range(updates):
        batch = draw(update)
        if deceive_every and 2 * update >= updates and update % deceive_every == deceive_every - 1:
            batch = _deceived(network, batch, update)
        total = _loss(network, batch, start)
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(total.detach()))
        advance(1)
    network.eval()
    return losses


def _both(network: RewardNetwork, batch: Comparisons) -> tuple[Tensor, Tensor]:
    planes = (
        torch.cat(pair)
        for pair in (
            (batch.first, batch.second),
            (batch.infrared, batch.infrared),
            (batch.visible, batch.visible),
        )
    )
    scores, marks = network(*planes)
    return scores, marks


def _loss(network: RewardNetwork, batch: Comparisons, start: RewardNetwork | None) -> Tensor:
    scores, marks = _both(network, batch)
    first, second = scores.chunk(2)
    total = preference_loss(first, second, batch.wins) + SHRINK * scores.square().mean()
    if batch.where is not None:
        wanted = torch.cat([torch.where(batch.where.isnan(), torch.nan, 0.0), batch.where])
        known = ~wanted.isnan()
        cost = F.binary_cross_entropy_with_logits(marks, wanted.nan_to_num(), reduction="none")
        total = total + (cost * known).sum() / known.sum().clamp(min=1)
    if start is not None:
        with torch.no_grad():
            kept, shown = _both(start, batch)
        total = total + KEEP * (marks - shown).square().mean()
        pairs = [
            (network.scores.index(name), at) for at, name in enumerate(start.scores) if name in network.scores
        ]
        for mine, its in pairs:
            idle = batch.wins[:, mine].isnan().repeat(2)
            total = total + KEEP * ((scores[:, mine] - kept[:, its]).square() * idle).mean() / len(pairs)
    return total


def _deceived(network: RewardNetwork, batch: Comparisons, update: int) -> Comparisons:
    """Return comparisons of the first images with those that deceive the network most."""
    draws = torch.Generator().manual_seed(update)
    shape = (len(batch.first), 1, 1, 1)
    most = _PUSH[0] + (_PUSH[1] - _PUSH[0]) * torch.rand(shape, generator=draws).to(batch.first)
    grain = (2 * torch.rand(batch.first.shape, generator=draws) - 1).to(batch.first)
    image = (batch.first + most * grain / 2).requires_grad_()
    scores, _ = network(image, batch.infrared, batch.visible)
    (slope,) = torch.autograd.grad(scores.sum(), image)
    pushed = (batch.first + most * slope.sign()).clamp(0, 1)
    wins = torch.ones(len(batch.first), len(network.scores)).to(batch.first)
    return Comparisons(batch.first, pushed, batch.infrared, batch.visible, wins)
