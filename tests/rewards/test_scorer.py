import copy
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from clipfuse.errors import UserError
from clipfuse.rewards.network import SCORES, RewardNetwork
from clipfuse.rewards.pairs import make_pair
from clipfuse.rewards.scorer import BUNDLED, Reward, read_reward, write_reward
from clipfuse.testing.loss_contract import example_inputs


def test_the_scorer_in_the_package_is_small_known_and_prefers_good_images() -> None:
    reward = read_reward()
    assert reward.names == SCORES
    assert BUNDLED.stat().st_size <= 2**20
    card = BUNDLED.with_name("MODEL_CARD.md").read_text()
    assert reward.sha256 in card
    assert str(reward.training["command"]) in card
    inputs = example_inputs(1, 96)
    for kind in ("visible", "average", "blur", "low_contrast"):
        made = make_pair(kind, inputs.infrared, inputs.visible, inputs.reference, 1)
        with torch.no_grad():
            one, other = (reward(image, inputs.infrared, inputs.visible) for image in (made.good, made.bad))
        assert float(one.scores["overall"]) > float(other.scores["overall"]), kind


def test_judgements_are_bounded_and_the_gradient_reaches_the_image_alone() -> None:
    reward, inputs = Reward(RewardNetwork()), example_inputs(2, 33)
    found = reward(inputs.fused, inputs.infrared, inputs.visible)
    assert found.map.shape == inputs.fused.shape
    for values in (*found.scores.values(), found.map):
        assert bool(((values >= 0) & (values <= 1)).all())
    sum(score.sum() for score in found.scores.values()).backward()  # type: ignore[union-attr]
    assert inputs.fused.grad is not None
    assert all(value.grad is None for value in reward.network.parameters())
    with pytest.raises(ValueError, match="visible"):
        reward(inputs.fused, inputs.infrared, inputs.visible[..., :5])


def test_a_file_round_trips_with_equal_bytes(tmp_path: Path) -> None:
    network = RewardNetwork(("overall", "color"), seed=3)
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path in paths:
        write_reward(path, network, {"seed": 3})
    assert paths[0].read_bytes() == paths[1].read_bytes()
    again = read_reward(str(paths[0]))
    assert (again.names, again.training) == (("overall", "color"), {"seed": 3})
    assert again.sha256 == Reward(network).sha256
    with pytest.raises(UserError, match="is there already"):
        write_reward(paths[0], network, {}, overwrite=False)
    with torch.no_grad():
        network.judge.bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"judge\.bias is not finite"):
        write_reward(tmp_path / "c.safetensors", network, {})
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    write_reward(good, RewardNetwork(), {})
    content = good.read_bytes()
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "code.safetensors").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "short.safetensors").write_bytes(content[:-100])
    (tmp_path / "changed.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (tmp_path / "names.safetensors").write_bytes(content.replace(b"sharpness", b"artifacts"))
    (tmp_path / "empty.safetensors").write_bytes(b"")
    for path in set(tmp_path.iterdir()) - {good}:
        with pytest.raises(UserError, match=rf"{path.name} is not a whole scorer of fused images"):
            read_reward(str(path))
    with pytest.raises(UserError, match=r"absent\.safetensors: cannot be read"):
        read_reward(str(tmp_path / "absent.safetensors"))


def test_wider_images_are_judged_in_their_own_type() -> None:
    scorer = read_reward("bundled")
    planes = torch.rand(3, 2, 1, 24, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = scorer.sha256
    found = scorer(*planes)
    double = copy.deepcopy(scorer.network).double()
    logits, marks = double(*planes)
    for at, name in enumerate(scorer.names):
        torch.testing.assert_close(found.scores[name], torch.sigmoid(logits[:, at]), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.map, torch.sigmoid(marks), rtol=1e-12, atol=0)
    assert scorer.sha256 == before
