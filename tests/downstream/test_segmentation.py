import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from clipfuse.downstream.base import Example
from clipfuse.downstream.protocols import frozen, retrained, scored
from clipfuse.downstream.segmentation import Segmentation, shares
from clipfuse.errors import UserError
from clipfuse.types import LabelSet

LABELS = LabelSet(("ground", "person", "car"), 0, ((0, 0, 0), (255, 0, 0), (0, 0, 255)))
NAME = "fpn_resnet10"


def example(number: int, height: int = 64, width: int = 64) -> Example:
    """A bright square is a person, a dark bar is a car, on mid-gray; a strip has no label."""
    generator = torch.Generator().manual_seed(number)
    top, left = torch.randint(4, 36, (2,), generator=generator).tolist()
    image = torch.randint(100, 140, (3, height, width), generator=generator, dtype=torch.uint8)
    classes = torch.zeros(height, width, dtype=torch.uint8)
    image[:, top : top + 18, left : left + 18], classes[top : top + 18, left : left + 18] = 250, 1
    image[:, 48:60, :40], classes[48:60, :40] = 5, 2
    classes[:2] = 255
    return Example(f"{number}", "s", image, classes)


TRAIN, TEST = [example(i) for i in range(6)], [example(i, 60, 70) for i in range(6, 9)]


def tiny(**settings: Any) -> Segmentation:
    given = {"network": NAME, "updates": 20, "batch_size": 4, "crop": (64, 64), "learning_rate": 0.003}
    return Segmentation(**{**given, **settings})


def test_it_learns_more_than_a_constant_and_repeats_bit_by_bit() -> None:
    task = tiny()
    found = retrained(task, LABELS, TRAIN, TEST, 0)
    scores = scored(task, LABELS, found)
    assert list(found) == ["6", "7", "8"]
    assert found["6"]["map"].shape == (60, 70)
    assert found["6"]["map"].dtype == torch.uint8
    assert all(sum(map(sum, each["confusion"])) == 58 * 70 for each in found.values())  # without the strip
    constant = [
        {"confusion": [[row, 0, 0] for row in map(sum, each["confusion"])]} for each in found.values()
    ]
    assert scores["mIoU"] > 20 + task.scores(LABELS, constant)["mIoU"]
    short = tiny(updates=3)
    first, second = (retrained(short, LABELS, TRAIN, TEST, 1) for _ in range(2))
    assert all(torch.equal(first[name]["map"], second[name]["map"]) for name in first)
    other = retrained(short, LABELS, TRAIN, TEST, 2)
    assert any(not torch.equal(first[name]["map"], other[name]["map"]) for name in first)


def test_frozen_judges_and_a_file_belongs_to_it_alone(tmp_path: Any) -> None:
    from clipfuse.downstream.networks import weights_of

    task = tiny(updates=2)
    network: Any = task.build(LABELS, 3, 0)
    path = tmp_path / "trained.pth"
    torch.save(weights_of(network, NAME, LABELS.names), path)
    task = tiny(updates=2, weights=str(path))
    seen: list[tuple[int, int]] = []
    found = frozen(task, LABELS, {"a": TRAIN}, {"b": TEST}, 0, lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]  # nothing is trained
    network.eval()
    with torch.no_grad():
        assert torch.equal(found["b"]["6"]["map"], task.judge(network, LABELS, TEST[0])["map"])
    with pytest.raises(UserError, match=r"downstream\.weights is for frozen-1"):
        retrained(task, LABELS, TRAIN, TEST, 0)


def test_frozen_writes_the_network_that_it_trains(tmp_path: Any) -> None:
    """Taken from the file, it finds the same; so does the frozen network of the task loss."""
    from clipfuse.ops.segmenter import load_weights

    task = tiny(updates=2, save=str(tmp_path / "judge.pt"))
    found = frozen(task, LABELS, {"a": TRAIN}, {"b": TEST}, 3)
    path = tmp_path / "judge-3.pt"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    again = frozen(tiny(weights=str(path)), LABELS, {"a": TRAIN}, {"b": TEST}, 0)
    network = task.build(LABELS, 3, 0).eval()
    load_weights(network, path)
    for name, example in zip(found["b"], TEST, strict=True):
        assert torch.equal(again["b"][name]["map"], found["b"][name]["map"])
        with torch.no_grad():
            assert torch.equal(task.judge(network, LABELS, example)["map"], found["b"][name]["map"])


def test_the_loss_is_the_weighted_mean_over_labelled_pixels() -> None:
    """A second implementation, pixel by pixel in float64; 1e-5 is the rounding of float32."""
    task = tiny()
    network: Any = task.build(LABELS, 3, 0).eval()
    task.prepare(network, TRAIN)
    share = [0.0] * 3
    for each in TRAIN:
        for value in each.classes.flatten().tolist():  # type: ignore[union-attr]
            if value != 255:
                share[value] += 1 / (6 * 62 * 64)
    weights = [1 / math.log(1.1 + each) for each in share]
    assert network.class_weights.tolist() == pytest.approx(weights, rel=1e-6)
    images = torch.stack([each.image for each in TRAIN[:2]]).float() / 255
    with torch.no_grad():
        chances = network(images).double().log_softmax(1)
        found = float(task.loss(network, images, TRAIN[:2]))
    total = weight = 0.0
    for index, each in enumerate(TRAIN[:2]):
        for row in range(64):
            for column in range(64):
                truth = int(each.classes[row, column])  # type: ignore[index]
                if truth != 255:
                    total -= weights[truth] * float(chances[index, truth, row, column])
                    weight += weights[truth]
    assert found == pytest.approx(total / weight, rel=1e-5)
    unlabelled = [replace(each, classes=torch.full((64, 64), 255, dtype=torch.uint8)) for each in TRAIN[:2]]
    assert task.loss(network, images, unlabelled).item() == 0.0
    known = [replace(each, classes=torch.where(each.classes == 2, 255, each.classes)) for each in TRAIN]  # type: ignore[arg-type,call-overload]
    for kind in ("log", "equal"):  # a class that no label teaches has no weight, and is not found
        other: Any = tiny(class_weights=kind).build(LABELS, 3, 0).eval()
        other.network.head.bias.data.copy_(torch.tensor([0.0, 0.0, 1e3]))
        with torch.no_grad():
            assert set(task.judge(other, LABELS, TEST[0])["map"].unique().tolist()) == {2}
            tiny(class_weights=kind).prepare(other, known)
            assert other.class_weights[2] == 0
            assert 2 not in task.judge(other, LABELS, TEST[0])["map"]
    equal: Any = tiny(class_weights="equal").build(LABELS, 3, 0)
    tiny(class_weights="equal").prepare(equal, TRAIN)
    assert equal.class_weights.tolist() == [1, 1, 1]


def refused(match: str, train: list[Example], test: list[Example] = TEST) -> None:
    with pytest.raises(UserError, match=match):
        tiny().check(LABELS, train, test)


def test_labels_that_do_not_serve() -> None:
    def changed(change: Any) -> list[Example]:
        classes: Tensor = TRAIN[0].classes.clone()  # type: ignore[union-attr]
        return [*TRAIN[1:], replace(TRAIN[0], classes=change(classes))]

    tiny().check(LABELS, TRAIN, TEST)
    refused("image 0 has no map of classes", changed(lambda _: None))
    refused("map of classes of 0 has size 32x64, its image 64x64", changed(lambda each: each[:32]))
    refused(
        r"map of classes of 0 holds class 7; expected 0 to 2 \(ground, person, car\) or 255",
        changed(lambda each: each.fill_(7)),
    )
    one = [replace(each, classes=torch.ones(64, 64, dtype=torch.uint8)) for each in TRAIN]
    refused("labels of the training part hold class 'person' alone", one)
    none = [replace(each, classes=torch.full((60, 70), 255, dtype=torch.uint8)) for each in TEST]
    refused("labels of the test part hold no labelled pixel", TRAIN, none)
    assert shares(LABELS, none) == [0.0, 0.0, 0.0]


def test_settings() -> None:
    settings = Segmentation().settings()
    assert settings["crop"] == list(Segmentation().crop or ())
    assert settings["encoder"] == "none"
    for wrong, match in (
        ({"network": "lraspp"}, "downstream.network is 'lraspp'; expected one of fpn_resnet10"),
        ({"class_weights": "logs"}, r"downstream.class_weights is 'logs'.*log"),
        ({"updates": 0}, "downstream.updates is 0; expected a whole number of 1 or more"),
        ({"batch_size": 1}, "downstream.batch_size is 1; expected 2 or more"),
        ({"learning_rate": math.nan}, "downstream.learning_rate is nan; expected a number above 0"),
        ({"crop": (20, 64)}, r"downstream.crop is \(20, 64\); expected null, or height and width"),
        ({"scale": (2, 1)}, r"downstream.scale is \(2, 1\); expected two numbers"),
    ):
        with pytest.raises(UserError, match=match):
            Segmentation(**wrong)


def test_drawings_show_classes_and_leave_the_background() -> None:
    task, one = tiny(), TRAIN[0]
    assert one.classes is not None
    truth = task.draw(LABELS, one, None)
    assert truth.dtype == torch.uint8
    assert truth.shape == (3, 64, 64)
    background = (one.classes == 0) | (one.classes == 255)
    assert torch.equal(truth[:, background], one.image[:, background])
    person = truth[:, one.classes == 1].float().mean(1)
    assert person[0] > person[1] + 100
    assert person[0] > person[2] + 100
    found = torch.zeros(64, 64, dtype=torch.uint8)
    found[:5] = 2
    four = replace(one, image=torch.cat([one.image, one.image[:1]]))
    drawn = task.draw(LABELS, four, {"map": found})
    assert (drawn[2, :5] > one.image[2, :5]).all()
    assert torch.equal(drawn[:, 5:], one.image[:, 5:])
