import math

import pytest
import torch

from clipfuse.rewards.learning import Comparisons, learn, preference_loss
from clipfuse.rewards.network import RewardNetwork

NAN = torch.nan


def test_the_loss_is_that_of_bradley_and_terry_written_out() -> None:
    first = torch.tensor([[0.3, 2.0], [-1.0, 0.5]], dtype=torch.float64)
    second = torch.tensor([[0.1, -1.0], [0.4, 0.0]], dtype=torch.float64)
    wins = torch.tensor([[1.0, NAN], [0.5, 0.0]], dtype=torch.float64)
    costs = []
    for one, other, win in zip(first.flatten(), second.flatten(), wins.flatten(), strict=True):
        if not math.isnan(win):
            p = 1 / (1 + math.exp(float(other - one)))
            costs.append(-(float(win) * math.log(p) + (1 - float(win)) * math.log(1 - p)))
    assert float(preference_loss(first, second, wins)) == pytest.approx(sum(costs) / 3, rel=1e-12)
    assert float(preference_loss(first, second, torch.full_like(wins, NAN))) == 0


def bright_and_dark(update: int) -> Comparisons:
    """The brighter image is better, and has its artefacts at the left where it is second."""
    planes = torch.rand(4, 6, 1, 16, 16, generator=torch.Generator().manual_seed(update))
    where = torch.zeros(6, 1, 16, 16)
    where[..., :8] = 1
    wins = torch.tensor([[1.0, NAN]]).repeat(6, 1)
    return Comparisons(0.5 + planes[0] / 2, planes[1] / 2, planes[2], planes[3], wins, where)


def test_a_network_learns_what_it_is_shown_and_keeps_the_rest() -> None:
    start = RewardNetwork(("overall", "sharpness")).eval()
    runs = []
    for _ in range(2):
        network = RewardNetwork(("overall", "sharpness"))
        losses = learn(network, bright_and_dark, 12, deceive_every=2)
        runs.append((losses, network))
    assert runs[0][0] == runs[1][0]
    network = runs[0][1]
    assert not network.training
    seen = bright_and_dark(99)
    with torch.no_grad():
        first, _ = network(seen.first, seen.infrared, seen.visible)
        second, _ = network(seen.second, seen.infrared, seen.visible)
    assert bool((first > second)[:, 0].all())
    drift = []
    for kept in (None, start):
        network = RewardNetwork(("overall", "sharpness"))
        seen_alone = Comparisons(seen.first, seen.second, seen.infrared, seen.visible, seen.wins)
        learn(network, lambda update: seen_alone, 12, start=kept)  # noqa: B023
        with torch.no_grad():
            moved = (
                network(seen.first, seen.infrared, seen.visible)[0]
                - start(seen.first, seen.infrared, seen.visible)[0]
            )
        drift.append(float(moved[:, 1].abs().mean()))
    assert drift[1] < drift[0]
