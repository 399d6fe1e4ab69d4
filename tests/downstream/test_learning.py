import math

import pytest
import torch
from tests.downstream.tiny import LABELS, TinyPairs, TinyTask
from torch import nn

from clipfuse.downstream.base import Example
from clipfuse.downstream.learning import factor, learn, order
from clipfuse.errors import UserError


def examples() -> list[Example]:
    pairs = [TinyPairs().load(name) for name in ("0D", "1N", "2D")]
    return [Example(str(i), "s", pair.visible, pair.classes) for i, pair in enumerate(pairs)]


def learnt(seed: int, **settings: int) -> tuple[nn.Module, list[tuple[int, int]]]:
    task, seen = TinyTask(**settings), list[tuple[int, int]]()
    network = task.build(LABELS, 3, 0)
    learn(task, network, examples(), seed, lambda done, total: seen.append((done, total)))
    return network, seen


def test_the_loss_of_each_update_is_returned_and_falls() -> None:
    task = TinyTask(updates=30)
    losses = learn(task, task.build(LABELS, 3, 0), examples(), 0)
    assert len(losses) == 30
    assert sum(losses[-5:]) < sum(losses[:5])


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([each.flatten() for each in network.parameters()])


def test_a_repeated_training_is_the_same_and_leaves_the_random_state() -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first, seen = learnt(1, updates=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    torch.manual_seed(99)
    assert torch.equal(weights(first), weights(learnt(1, updates=4)[0]))
    assert not torch.equal(weights(first), weights(learnt(2, updates=4)[0]))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert not first.training
    torch.set_rng_state(state)


def test_each_pass_is_a_new_permutation() -> None:
    batches = list(order(5, 2, 10, seed=0))
    assert all(len(each) == 2 for each in batches)
    flat = [index for each in batches for index in each]
    passes = [flat[start : start + 5] for start in range(0, 20, 5)]
    assert all(sorted(each) == list(range(5)) for each in passes)
    assert len(set(map(tuple, passes))) > 1
    assert next(iter(order(2, 5, 2, 0))) != []
    assert sorted(set(next(iter(order(2, 5, 2, 0))))) == [0, 1]


def test_the_learning_rate_rises_and_falls() -> None:
    factors = [factor(update, 100) for update in range(100)]
    assert factors[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert factors[5:] == sorted(factors[5:], reverse=True)
    assert 0 < factors[-1] < 0.001
    assert factors[52] == pytest.approx(0.5 * (1 + math.cos(math.pi * 47 / 95)))
    assert factor(0, 1) == 1.0


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    class Diverging(TinyTask):
        def loss(self, network: nn.Module, images: torch.Tensor, examples: object) -> torch.Tensor:
            return network(images).mean() * math.inf

    task = Diverging()
    with pytest.raises(UserError, match=r"after 0 updates; lower downstream\.learning_rate \(now 0\.3\)"):
        learn(task, task.build(LABELS, 3, 0), examples(), 0)
