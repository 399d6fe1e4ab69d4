"""Detection: boxes from labels or maps, judgements in plain numbers, what is refused."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models import mobilenet_v3_large, mobilenet_v3_small

from clipfuse.downstream.base import Example
from clipfuse.downstream.detection import Detection
from clipfuse.downstream.learning import learn
from clipfuse.downstream.protocols import frozen, retrained, scored
from clipfuse.errors import UserError
from clipfuse.ops.objects import components
from clipfuse.types import IGNORED, Boxes, LabelSet

sys.path.append(str(Path(__file__).parents[2]))
from tests.downstream.tiny import material

LABELS = LabelSet(
    ("nothing", "person", "road", "car"),
    palette=((0, 0, 0), (255, 0, 0), (9, 9, 9), (0, 0, 90)),
    groups=(("night", "N$"),),
    objects=("person", "car"),
)


def example(index: int, channels: int = 3, night: bool = False) -> Example:
    """Return a gray image with a bright upright and a dark lying box."""
    generator = torch.Generator().manual_seed(index)
    x, y = torch.randint(0, 24, (2,), generator=generator).tolist()
    image = torch.randint(90, 130, (channels, 64, 96), generator=generator, dtype=torch.uint8)
    image[:, y : y + 24, x : x + 12] = 255
    image[:, 40 : 40 + 12, 96 - 30 - x : 96 - x] = 0
    boxes = [[x, y, x + 12, y + 24], [66 - x, 40, 96 - x, 52], [0, 0, 96, 64]]
    return Example(
        name=f"{index:05d}{'N' if night else 'D'}",
        scene=str(index),
        image=image,
        boxes=Boxes(torch.tensor(boxes, dtype=torch.float32), torch.tensor([1, 3, 2])),
    )


def task(**settings: Any) -> Detection:
    return Detection(**{"size": 64, "updates": 2, "batch_size": 2, **settings})


TRAIN = [example(k) for k in range(4)]
TEST = [example(k + 10, night=k == 1) for k in range(2)]


@pytest.fixture(scope="module")
def judged() -> dict[str, Any]:
    return retrained(task(), LABELS, TRAIN, TEST, seed=3)


def test_a_judgement_is_plain_numbers_and_gives_all_scores(judged: dict[str, Any]) -> None:
    assert set(judged) == {"00010D", "00011N"}
    for each, truth in zip(judged.values(), TEST, strict=True):
        assert truth.boxes is not None
        # The class "road" has boxes, and is no object.
        kept = [
            [*box, kind]
            for box, kind in zip(truth.boxes.xyxy.tolist(), truth.boxes.classes.tolist(), strict=True)
            if kind != 2
        ]
        assert each["objects"] == kept
        assert 0 < len(each["found"]) <= 100
        scores = [row[4] for row in each["found"]]
        assert scores == sorted(scores, reverse=True)
        for x1, y1, x2, y2, score, kind in each["found"]:
            assert 0 <= x1 <= x2 <= 96
            assert 0 <= y1 <= y2 <= 64
            assert kind in (1, 3)
            assert 0.01 <= score <= 1
            assert [round(v, 2) for v in (x1, y1, x2, y2)] == [x1, y1, x2, y2]
    again = json.loads(json.dumps(judged, allow_nan=False))
    assert repr(scored(task(), LABELS, again)) == repr(scored(task(), LABELS, judged))


def test_a_repeated_training_gives_the_same_numbers(judged: dict[str, Any]) -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert retrained(task(), LABELS, TRAIN, TEST, seed=3) == judged
    assert torch.equal(torch.get_rng_state(), before)
    assert retrained(task(), LABELS, TRAIN, TEST, seed=4) != judged


def test_it_learns_what_can_be_seen() -> None:
    # A trained network finds the boxes of images that it has seen, an untrained one does not.
    learner = task(updates=20, batch_size=4, scale=(1, 1), learning_rate=3e-3)
    network = learner.build(LABELS, 3, seed=0)
    with torch.no_grad():
        start = float(learner.loss(network.train(), _stacked(TRAIN), TRAIN))
    learn(learner, network, TRAIN, seed=0)
    with torch.no_grad():
        end = float(learner.loss(network.train(), _stacked(TRAIN), TRAIN))
    assert end < 0.6 * start


def _stacked(examples: list[Example]) -> Tensor:
    return torch.stack([each.image for each in examples]).float() / 255


def test_scores_by_hand() -> None:
    both: dict[str, Any] = {
        "objects": [[0, 0, 10, 10, 1], [20, 0, 30, 10, 1]],
        # The first covers 0.7 of its object's union, the second finds nothing.
        "found": [[0, 0, 10, 7, 0.9, 1], [50, 50, 60, 60, 0.8, 1], [50, 50, 60, 60, 0.7, 3]],
    }
    scores = task().scores(LABELS, [both])
    half = 100 * 51 / 101  # precision 1 at the recalls 0 to 0.5
    assert scores["AP50/person"] == pytest.approx(half, abs=1e-9)
    assert scores["AP/person"] == pytest.approx(half * 0.5, abs=1e-9)  # limits 0.5 to 0.7 of ten
    assert math.isnan(scores["AP50/car"])
    assert math.isnan(scores["AP/car"])
    assert scores["mAP50"] == scores["AP50/person"]
    assert scores["mAP"] == scores["AP/person"]
    assert set(scores) == {"mAP50", "mAP", "AP50/person", "AP50/car", "AP/person", "AP/car"}
    empty = scored(task(), LABELS, {"1D": both})
    assert math.isnan(empty["mAP50/night"])
    assert "AP50/person/night" not in empty


def test_components_of_a_map_become_boxes() -> None:
    plane = torch.zeros(12, 20, dtype=torch.uint8)
    plane[1:4, 2:7] = 1
    plane[4, 7] = 1  # touches at a corner
    plane[8:11, 15:20] = 1
    plane[8:11, 0:4] = 3
    plane[9, 1] = IGNORED
    plane[0, 19] = 1  # of one pixel
    plane[6, :] = 2
    found = components(plane, (1, 3), smallest=2)
    assert found.xyxy.tolist() == [[2, 1, 8, 5], [15, 8, 20, 11], [0, 8, 4, 11]]
    assert found.classes.tolist() == [1, 1, 3]
    assert len(components(plane, (1, 3), smallest=12)) == 2
    nothing = components(torch.zeros(4, 4, dtype=torch.uint8), (1,), smallest=1)
    assert nothing.xyxy.shape == (0, 4)
    mapped = Example("a", "a", torch.zeros(3, 12, 20, dtype=torch.uint8), classes=plane)
    of_map = task(boxes="components", smallest=2)
    assert of_map.needs == "classes"
    assert of_map.objects(LABELS, mapped).xyxy.tolist() == found.xyxy.tolist()
    of_map.check(LABELS, [mapped], [mapped])


def test_four_channels_start_as_three_do() -> None:
    for name in ("ssdlite_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large"):
        three, four = (task(network=name).build(LABELS, channels, seed=1).eval() for channels in (3, 4))
        weights = dict(three.named_parameters())
        differing = [k for k, v in four.named_parameters() if not torch.equal(v, weights[k])]
        assert len(differing) == 1
        first = four.get_parameter(differing[0])
        assert torch.equal(first[:, :3], weights[differing[0]])
        assert torch.equal(first[:, 3], first[:, :3].mean(dim=1))
    with torch.no_grad():
        assert {"boxes", "scores", "labels"} <= set(four([torch.rand(4, 64, 96)])[0])


def test_frozen_writes_the_detector_that_it_trains_and_takes_one(tmp_path: Path) -> None:
    """Taken from the file, it finds the same, whatever the tail of the encoder was."""
    found = frozen(task(save=str(tmp_path / "judge.pt")), LABELS, {"a": TRAIN}, {"b": TEST}, 3)
    path = tmp_path / "judge-3.pt"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    again = task(weights=str(path))
    seen: list[tuple[int, int]] = []
    assert frozen(again, LABELS, {"a": TRAIN}, {"b": TEST}, 0, lambda *at: seen.append(at)) == found
    assert seen == [(1, 2), (2, 2)]  # nothing is trained
    assert again.settings()["weights"].startswith("sha256:")
    torch.save(mobilenet_v3_large(weights=None).state_dict(), tmp_path / "encoder.pt")
    wide = task(encoder=str(tmp_path / "encoder.pt")).build(LABELS, 3, 0)  # as published weights need it
    torch.save(wide.network.state_dict(), tmp_path / "wide.pt")
    trained = task(weights=str(tmp_path / "wide.pt")).trained(LABELS, 3)
    assert trained is not None
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), wide.parameters(), strict=True))


def test_a_file_of_another_detector_is_named(tmp_path: Path) -> None:
    names, bare = ("nothing", "person", "road"), tmp_path / "bare.pt"
    one = LabelSet(names, objects=("person",))
    frozen(task(save=str(tmp_path / "a.pt")), one, {"a": TRAIN}, {"b": TEST}, 0)
    torch.save(torch.load(tmp_path / "a-0.pt")["state_dict"], bare)
    cases = [
        (
            task(weights=str(tmp_path / "a-0.pt")),
            r"a-0\.pt finds the classes person; the labels have person, c",
        ),
        (task(weights=str(bare)), r"bare\.pt finds 1 classes; the labels have 2: person, car"),
        (
            task(weights=str(tmp_path / "a-0.pt"), network="fasterrcnn_mobilenet_v3_large"),
            r"a-0\.pt holds a trained ssdlite_mobilenet_v3_large; expected fasterrcnn_mobilenet_v3_large",
        ),
        (
            task(weights=str(bare), network="fasterrcnn_mobilenet_v3_large"),
            "holds the weights of another network than fasterrcnn_mobilenet_v3_large: '",
        ),
    ]
    for each, message in cases:
        with pytest.raises(UserError, match=message):
            each.trained(LABELS, 3)
    for each in (task(weights=str(bare)), task(save="x.pt")):
        with pytest.raises(UserError, match=r"retrained-1 trains its networks itself.*is for frozen-1"):
            retrained(each, LABELS, TRAIN, TEST, 0)
    with pytest.raises(UserError, match=r"downstream\.weights is 'gone'; expected coco or an existing file"):
        task(weights="gone").settings()


def test_faster_rcnn_is_trained_and_judged_too() -> None:
    other = task(network="fasterrcnn_mobilenet_v3_large", updates=1)
    assert len(retrained(other, LABELS, TRAIN, TEST[:1], seed=0)) == 1


@pytest.mark.parametrize("network", ["ssdlite_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large"])
def test_an_encoder_comes_from_a_file(network: str, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        whole = mobilenet_v3_large(weights=None)
        torch.save(whole.state_dict(), tmp_path / "large.pt")
        torch.save(mobilenet_v3_small(weights=None).state_dict(), tmp_path / "small.pt")
    given = task(network=network, encoder=str(tmp_path / "large.pt"))
    built = given.build(LABELS, 3, seed=0).state_dict()
    first = whole.features[0][0].weight
    assert any(torch.equal(value, first) for value in built.values() if value.shape == first.shape)
    assert given.settings()["encoder"] != task().settings()["encoder"]
    with pytest.raises(UserError, match=rf"small\.pt.*another encoder.*{network}"):
        task(network=network, encoder=str(tmp_path / "small.pt")).build(LABELS, 3, seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "ssdlite"}, "downstream.network is 'ssdlite'; expected ssdlite_mobilenet_v3_large or"),
        ({"boxes": "component"}, "boxes is 'component'.* Did you mean 'components'"),
        ({"smallest": 0}, "smallest is 0; expected 1 or more"),
        ({"size": 32}, "size is 32; expected 64 or more"),
        ({"updates": 0}, "updates is 0"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        task(**settings)


def test_labels_that_cannot_be_used_are_named() -> None:
    bare = Example("b", "b", TRAIN[0].image, boxes=Boxes(torch.zeros(0, 4), torch.zeros(0).long()))
    with pytest.raises(UserError, match=r"test part \(1\) has an object of the classes person, car"):
        task().check(LABELS, TRAIN, [bare])
    with pytest.raises(UserError, match=r"training part \(1\) has an object"):
        task().check(LABELS, [bare], TEST)
    unlabelled = Example("u", "u", TRAIN[0].image, classes=torch.zeros(64, 96, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"image u of the test part has no boxes.*boxes=components"):
        task().check(LABELS, TRAIN, [unlabelled])
    with pytest.raises(UserError, match=r"image 00000D of the training part has no map of classes"):
        task(boxes="components").check(LABELS, TRAIN, TEST)
    with pytest.raises(UserError, match="name no class of objects"):
        task().check(LabelSet(("sky",)), TRAIN, TEST)


def test_one_class_is_enough_and_images_without_objects_are_kept() -> None:
    one = LabelSet(("person",), background=None)
    bare = Example("b", "b", TRAIN[0].image, boxes=Boxes(torch.zeros(0, 4), torch.zeros(0).long()))
    some = Example("s", "s", TRAIN[0].image, boxes=Boxes(torch.tensor([[5.0, 5, 20, 30]]), torch.tensor([0])))
    judgements = retrained(task(), one, [bare, some], [bare, some], seed=0)
    assert judgements["b"]["objects"] == []
    assert set(task().scores(one, list(judgements.values()))) == {"mAP50", "mAP", "AP50/person", "AP/person"}


def test_a_drawing_shows_found_boxes_and_dashed_objects() -> None:
    blank = Example("x", "x", torch.full((4, 60, 80), 100, dtype=torch.uint8), boxes=TEST[0].boxes)
    judgement = {
        "objects": [[10, 20, 40, 50, 1]],
        "found": [[12, 22, 42, 52, 0.8, 3], [50, 5, 60, 9, 0.1, 1]],
    }
    drawn = task().draw(LABELS, blank, judgement)
    assert drawn.shape == (3, 60, 80)
    assert drawn.dtype == torch.uint8
    red, blue = (torch.tensor(rgb, dtype=torch.uint8) for rgb in ((255, 0, 0), (0, 0, 204)))
    assert (drawn[:, 50, 12:42] == blue[:, None]).all(dim=0).float().mean() == 1  # solid
    dashes = (drawn[:, 20:50, 10] == red[:, None]).all(dim=0).float().mean()
    assert 0.4 < float(dashes) < 0.8
    assert (drawn[:, 5:9, 50:60] == 100).all()  # of too low a score
    assert not torch.equal(task().draw(LABELS, blank, None), blank.image[:3])
    assert (blank.image == 100).all()


def test_a_data_set_of_maps_gives_boxes_where_they_are_requested() -> None:
    with pytest.raises(UserError, match=r"8 of 8 pairs have no boxes.*downstream\.boxes=components"):
        material(task())
    of_maps = task(boxes="components")
    made = material(of_maps)
    for each in made.blank(made.test):  # one person of 8 by 10 pixels
        (box,) = of_maps.objects(made.labels, each).xyxy.tolist()
        assert (box[2] - box[0], box[3] - box[1]) == (8, 10)
