from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clipfuse.errors import UserError
from clipfuse.losses.pixel import PixelLoss
from clipfuse.losses.reward import RewardLoss
from clipfuse.rewards.network import SCORES, RewardNetwork
from clipfuse.rewards.scorer import Judgement, Reward
from clipfuse.testing.loss_contract import LossContract, example_inputs


class TestContract(LossContract):
    @pytest.fixture
    def node(self, loss_node: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        return loss_node("reward")


def scorer(seed: int = 0) -> Reward:
    return Reward(RewardNetwork(seed=seed))


def test_the_total_is_made_by_hand() -> None:
    inputs, judge = example_inputs(), scorer()
    loss = RewardLoss(PixelLoss(), 3.0, ["overall", "sharpness"], judge, noise=0.0)
    output = loss(inputs)
    logits, marks = judge.network(inputs.fused, inputs.infrared, inputs.visible)
    chosen = torch.sigmoid(logits)[:, [SCORES.index("overall"), SCORES.index("sharpness")]]
    torch.testing.assert_close(output.total, PixelLoss()(inputs).total + 3 * (1 - chosen.mean()))
    assert set(output.terms) == {
        *("intensity", "gradient", "reward", "score_overall", "score_sharpness", "artifact")
    }
    torch.testing.assert_close(output.terms["artifact"], torch.sigmoid(marks).mean().detach())


def test_the_scorer_is_frozen_and_in_no_checkpoint() -> None:
    loss = RewardLoss(PixelLoss(), scorer=scorer())
    before = {name: value.clone() for name, value in loss.scorer.network.state_dict().items()}  # type: ignore[attr-defined]
    assert not list(loss.parameters())
    assert set(loss.state_dict()) == {"_extra_state"}
    loss.train()
    loss(example_inputs()).total.backward()
    network = loss.scorer.network  # type: ignore[attr-defined]
    assert not network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    RewardLoss(PixelLoss(), scorer=scorer()).load_state_dict(loss.state_dict())
    with pytest.raises(UserError, match=r"loss\.scorer has other weights"):
        RewardLoss(PixelLoss(), scorer=scorer(1)).load_state_dict(loss.state_dict())


def test_noise_is_seen_in_training_alone_and_leaves_the_gradient_of_white() -> None:
    inputs = example_inputs()
    loss = RewardLoss(PixelLoss(0.0, 1.0), scorer=scorer(), noise=0.05).train()
    first, later = loss(inputs), loss(replace(inputs, step=1))
    assert first.terms["reward"] != later.terms["reward"]
    assert torch.equal(first.terms["gradient"], later.terms["gradient"])
    loss.eval()
    assert torch.equal(loss(inputs).total, loss(replace(inputs, step=1)).total)
    white = replace(inputs, fused=torch.ones_like(inputs.fused).requires_grad_())
    (slope,) = torch.autograd.grad(loss.train()(white).total, white.fused)
    assert float((slope != 0).float().mean()) > 0.9


class Own(nn.Module):
    """A scorer of somebody else: a module, with one score."""

    names = ("level",)

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.norm = nn.BatchNorm2d(1)

    def forward(self, fused: Tensor, infrared: Tensor, visible: Tensor) -> Judgement:
        level = self.gain * self.norm(fused).mean((1, 2, 3))
        return Judgement({"level": torch.sigmoid(level)}, torch.zeros_like(fused))


def test_another_scorer_is_frozen_too() -> None:
    own = Own()
    loss = RewardLoss(PixelLoss(), scorer=own).train()
    assert (own.training, own.norm.training, own.gain.requires_grad) == (False, False, False)
    assert not list(loss.parameters())
    output = loss(example_inputs())
    assert "score_level" in output.terms
    assert torch.equal(own.norm.running_mean, torch.zeros(1))


def test_artifacts_show_scores_of_trivial_fusions_and_the_map() -> None:
    found = RewardLoss(PixelLoss(), scorer=scorer(), scores=["overall"]).artifacts(example_inputs())
    assert set(found.texts) == {"fused", "infrared", "visible", "average", "maximum"}
    assert found.texts["fused"].startswith("overall 0.")
    assert [(name, image.shape[0]) for name, image in found.images] == [("fused", 1), ("artifacts", 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "weight is -1.0; expected 0 or more"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"scores": []}, "reward loss: scores has empty; expected some of thermal_retention"),
        ({"scores": ["beauty"]}, "scores has beauty; expected some of"),
    ],
)
def test_refuses_what_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardLoss(PixelLoss(), scorer=scorer(), **options)


def test_a_weight_of_0_is_named() -> None:
    assert RewardLoss(PixelLoss(), 0.0, scorer=scorer()).notices(9) == [
        "loss.weight=0: the network is trained by the fidelity alone"
    ]
