import torch
from experiments.reward.scenes import Draw, Scene
from experiments.reward.train import judge, show

from clipfuse.rewards.network import SCORES, RewardNetwork
from clipfuse.rewards.pairs import KINDS
from clipfuse.rewards.scorer import Reward
from clipfuse.testing.loss_contract import example_inputs


def test_batches_follow_from_the_seed_and_the_table_names_all_kinds() -> None:
    inputs = example_inputs(2, 100)
    data = [
        Scene(str(at), inputs.infrared[at : at + 1], inputs.visible[at : at + 1], None) for at in range(2)
    ]
    first, again, other = (Draw([data], 3, seed)(5) for seed in (0, 0, 1))
    assert torch.equal(first.second, again.second)
    assert not torch.equal(first.second, other.second)
    assert first.first.shape == (3, 1, 96, 96)
    assert first.wins.shape == (3, len(SCORES))
    assert bool((first.wins[:, SCORES.index("overall")] == 1).all())
    table = judge(Reward(RewardNetwork()), data)
    assert set(table) == set(KINDS)
    assert set(table["blur"]) == {"texture_preservation", "sharpness", "overall"}
    lines = show({"two": table}).splitlines()
    assert len(lines) == len(KINDS) + 3
    assert lines[-1].startswith("| mean | ")
