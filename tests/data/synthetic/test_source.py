"""Ids are places in one endless sequence of scenes, of which each part has every third."""

import pytest
import torch

from clipfuse.data.pairs import Pair
from clipfuse.data.synthetic import source
from clipfuse.data.synthetic.source import SyntheticPairs, render, sample_scene


def planes_of(pair: Pair) -> list[torch.Tensor]:
    assert pair.boxes is not None
    values = [*vars(pair).values(), pair.boxes.xyxy, pair.boxes.classes]
    planes = [value for value in values if isinstance(value, torch.Tensor)]
    assert len(planes) == 7
    return planes


def same(one: Pair, other: Pair) -> bool:
    return all(torch.equal(a, b) for a, b in zip(planes_of(one), planes_of(other), strict=True))


@pytest.mark.parametrize(("name", "index"), [("train-000000", 0), ("val-000001", 4), ("test-000002", 8)])
def test_an_id_is_the_scene_of_its_index(name: str, index: int) -> None:
    pairs = SyntheticPairs(train=3, val=3, test=3, size=64, seed=5)
    assert same(pairs.load(name), render(5, index, 64))
    assert not same(pairs.load(name), render(5, index + 1, 64))


def test_the_scene_alone_is_the_one_that_is_rendered() -> None:
    scene, rng = sample_scene(2, 7, 64)
    again, _ = sample_scene(2, 7, 64)
    assert scene == again
    assert rng.random() != 0
    assert scene.camera.size == 64


def test_each_picture_is_a_scene_and_another_renderer_another_data_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pairs = SyntheticPairs(train=2, val=1, test=1, size=64)
    assert pairs.scenes() == {}
    before = pairs.fingerprint()
    monkeypatch.setattr(source, "VERSION", source.VERSION + 1)
    assert pairs.fingerprint() != before
