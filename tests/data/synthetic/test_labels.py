"""Who owns a pixel, against a second way to find it; boxes as extents; classes of each thing."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch

from clipfuse.data.pairs import Pair
from clipfuse.data.synthetic import SyntheticPairs, render
from clipfuse.data.synthetic.backdrop import Ground, Ridge
from clipfuse.data.synthetic.canvas import TARGET, Canvas, Material
from clipfuse.data.synthetic.labels import LABELS, LEAST_PIXELS, Shares
from clipfuse.data.synthetic.scene import Scene
from clipfuse.data.synthetic.source import sample_scene
from clipfuse.data.synthetic.surroundings import Building, Plant, Post
from clipfuse.data.synthetic.targets import Car, Person
from clipfuse.data.transforms import paired_crop
from clipfuse.types import IGNORED, Boxes

Make = Callable[..., Canvas]
GRAY = Material((0.3, 0.3, 0.3), 10.0)
PERSON, CAR = (LABELS.names.index(name) for name in LABELS.objects)
UNCLEAR = 1e-5  # shares are float32: sums over tens of strokes are exact to some 1e-6


def labelled(pair: Pair) -> tuple[np.ndarray, Boxes]:
    """Return the labels, both there."""
    assert pair.classes is not None
    assert pair.boxes is not None
    return pair.classes.numpy(), pair.boxes


class Spotlight(Shares):
    """Makes one thing the only target, so that the images' own blending gives its share of each pixel."""

    def __init__(self, size: int, wanted: int) -> None:
        super().__init__(size)
        self.wanted, self.begun, self.top, self.covered = wanted, list[tuple[str, bool]](), 0, 0

    def begin(self, name: str, target: bool = False) -> None:
        super().begin(name, len(self.begun) == self.wanted)
        self.begun.append((name, target))

    def surface(self, top: int, names: tuple[str, ...], which: np.ndarray) -> None:
        self.top, self.covered = top, len(self.begun)
        super().surface(top, names, which)


def spotlight(seed: int, index: int, size: int, wanted: int) -> tuple[np.ndarray, Spotlight]:
    """Return a thing's share of each pixel of a scene, and what was painted."""
    scene, rng = sample_scene(seed, index, size)
    canvas = Canvas(scene.camera, scene.air - scene.weather.cold, rng)
    canvas.shares = shares = Spotlight(size, wanted)
    for layer in scene.layers:
        layer.paint(canvas)
    share = canvas.buffer[..., TARGET].copy()
    if wanted < shares.covered:  # the ground hides what was painted before it, but leaves its mark
        share[shares.top :] = 0
    return share, shares


def surface_at(scene: Scene, row: int, column: int) -> tuple[str, bool]:
    """Return what lies where the ray through a pixel meets the ground, and whether it is clear."""
    camera, size = scene.camera, scene.camera.size
    (ground,) = (layer for layer in scene.layers if isinstance(layer, Ground))
    z = min(camera.height * camera.focal * size / (row - camera.horizon * size), 280.0)
    x = (column - size * camera.vanish) * z / (size * camera.focal) - camera.bend * z * z + camera.lateral
    edges = ground.half, ground.half + ground.pavement
    clear = all(abs(abs(x) - edge) > 1e-3 * (1 + abs(x)) for edge in edges)
    return ("road" if abs(x) < edges[0] else "pavement" if abs(x) < edges[1] else "ground"), clear


@pytest.mark.parametrize("index", [2, 5, 9])
def test_labels_equal_those_of_each_thing_alone(index: int) -> None:
    """Slow way: every thing in turn is the only target, and the mask of targets shows its share."""
    size = 64
    first, shares = spotlight(0, index, size, 0)
    count, scene = len(shares.begun), sample_scene(0, index, size)[0]
    alone = np.stack([first, *(spotlight(0, index, size, k)[0] for k in range(1, count))]).astype(float)
    behind = 1 - alone.sum(axis=0)  # sky, or ground
    pair = render(0, index, size)
    classes, boxes = labelled(pair)
    assert pair.target_mask is not None
    pixels: dict[int, list[tuple[int, int]]] = {}
    unclear = 0
    for row, column in np.ndindex(size, size):
        hot = bool(pair.target_mask[0, row, column])
        name, clear = surface_at(scene, row, column) if row >= shares.top else ("sky", True)
        rivals = [(behind[row, column], -1)] * (not hot)
        rivals += [(alone[k, row, column], k) for k, (_, target) in enumerate(shares.begun) if target == hot]
        (most, owner), (second, _) = sorted([*rivals, (0.0, -2)], reverse=True)[:2]
        if owner >= 0:
            name, clear = shares.begun[owner][0], True
            pixels.setdefault(owner, []).append((row, column))
        if clear and most - second > UNCLEAR:
            assert LABELS.names[classes[row, column]] == name, (row, column)
        else:
            unclear += 1
    assert unclear < 0.002 * size**2
    expected = []
    for owner, places in sorted(pixels.items()):
        name = shares.begun[owner][0]
        if name in LABELS.objects and len(places) >= LEAST_PIXELS:
            rows, columns = zip(*places, strict=True)
            box = [min(columns), min(rows), max(columns) + 1, max(rows) + 1]
            expected.append((box, LABELS.names.index(name)))
    assert expected
    assert list(zip(boxes.xyxy.tolist(), boxes.classes.tolist(), strict=True)) == expected


def alpha(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def test_a_pixel_belongs_to_the_last_thing_that_has_most_of_it() -> None:
    shares = Shares(4)
    shares.begin("building")
    shares.stroke(0, 1, 0, 4, alpha(1, 1, 0.5, 0.6))
    shares.begin("car", target=False)
    # Two strokes of one thing: 1 - 0.6 x 0.6 = 0.64 of a pixel is its.
    shares.stroke(0, 1, 0, 1, alpha(0.4))
    shares.stroke(0, 1, 0, 2, alpha(0.4, 0.4))
    shares.begin("sign")
    # It leaves 0.67 x 0.6 for the building, 0.67 x 0.4 for the car, and takes 0.33.
    shares.stroke(0, 1, 1, 2, alpha(0.33))
    classes, boxes = shares.labels(np.zeros((4, 4)))
    assert [LABELS.names[kind] for kind in classes[0]] == ["car", "building", "sky", "building"]
    assert (classes[1:] == 0).all()
    assert len(boxes) == 0
    assert boxes.xyxy.shape == (0, 4)
    assert (boxes.xyxy.dtype, boxes.classes.dtype) == (torch.float32, torch.int64)


def test_targets_own_what_the_mask_gives_them() -> None:
    """A third of the pixel for each of three things: two targets have it together."""
    for targets, owner in ((0.66, "car"), (0.5, "sky")):
        shares = Shares(1)
        shares.begin("car", target=True)
        shares.stroke(0, 1, 0, 1, alpha(0.5))
        shares.begin("person", target=True)
        shares.stroke(0, 1, 0, 1, alpha(0.32))
        classes, _ = shares.labels(np.full((1, 1), targets))
        assert LABELS.names[classes[0, 0]] == owner


def test_what_is_hidden_has_no_share_left() -> None:
    """Behind a person there is no sky left; the road hides all behind it."""
    shares = Shares(1)
    shares.begin("person", target=True)
    shares.stroke(0, 1, 0, 1, alpha(1))
    shares.begin("pole")
    shares.stroke(0, 1, 0, 1, alpha(0.4))
    shares.begin("sign")
    shares.stroke(0, 1, 0, 1, alpha(0.3))  # leaves 0.42 of the person, 0.28 of the pole
    assert LABELS.names[shares.labels(np.full((1, 1), 0.42))[0][0, 0]] == "sign"
    shares = Shares(2)
    shares.begin("building")
    shares.stroke(0, 2, 0, 2, alpha(0.5))
    shares.surface(1, ("road", "ground"), np.array([[0, 1]]))
    shares.begin("pole")
    shares.stroke(0, 2, 0, 2, alpha(0.4))  # leaves 0.6 of the road, 0.3 of the sky and of the building
    classes, _ = shares.labels(np.zeros((2, 2)))
    assert [[LABELS.names[kind] for kind in row] for row in classes] == [["pole", "pole"], ["road", "ground"]]


@pytest.mark.parametrize(("pixels", "count"), [(LEAST_PIXELS - 1, 0), (LEAST_PIXELS, 1)])
def test_what_shows_too_little_has_no_box_but_a_class(pixels: int, count: int) -> None:
    shares = Shares(20)
    shares.begin("person", target=True)
    shares.stroke(3, 4, 2, 20, np.ones((1, 18), np.float32))
    shares.begin("pole")
    shares.stroke(0, 20, 2 + pixels, 20, np.ones((20, 18 - pixels), np.float32))
    targets = np.zeros((20, 20))
    targets[3, 2 : 2 + pixels] = 1
    classes, boxes = shares.labels(targets)
    assert (classes == PERSON).sum() == pixels
    assert boxes.xyxy.tolist() == [[2, 3, 2 + pixels, 4]] * count
    assert boxes.classes.tolist() == [PERSON] * count


CAR_FACTS = {"yaw": 0.0, "kind": "sedan", "color": (0.5, 0.1, 0.1), "cold": 10.0, "lights": False}
CLOTHES = {"coat": (0.1, 0.1, 0.4), "trousers": (0.1, 0.1, 0.1), "clothes": 20.0}
LONE = {
    "hills": (Ridge(100.0, 20.0, False, GRAY), {"vegetation"}),
    "roofs": (Ridge(100.0, 20.0, True, GRAY), {"building"}),
    "street": (
        Ground(4.0, 2.0, GRAY, GRAY, GRAY, (0.9, 0.9, 0.9), "double", 10.0, 0.5),
        {"road", "pavement", "ground"},
    ),
    "house": (Building(4.0, 8.0, 10.0, 8.0, 5.0, 2.0, GRAY, (1.0, 0.8), 0.5), {"building"}),
    "tree": (Plant(0.0, 12.0, 5.0, 3.0, 2.0, 0.2, GRAY), {"vegetation"}),
    "lamp": (Post(1.0, 14.0, 5.8, "lamp", GRAY, (5.0, 3.4, 1.3)), {"pole", "lamp"}),
    "sign": (Post(1.0, 8.0, 2.4, "sign", GRAY), {"pole", "sign"}),
    "wires": (Post(1.0, 14.0, 8.0, "wires", GRAY, gap=20.0), {"pole"}),
    "moving": (Car(0.0, 9.0, running=True, **CAR_FACTS), {"car"}),
    "parked": (Car(0.0, 9.0, running=False, **CAR_FACTS), {"car"}),
    "person": (Person(0.0, 6.0, 1.8, 0.0, 0.1, **CLOTHES), {"person"}),
}


@pytest.mark.parametrize("case", LONE)
def test_each_thing_has_its_classes(canvas: Make, case: str) -> None:
    thing, expected = LONE[case]
    street = canvas()
    thing.paint(street)
    classes, boxes = street.shares.labels(street.buffer[..., TARGET])
    assert {LABELS.names[kind] for kind in classes.unique()} == expected | {"sky"}
    assert {LABELS.names[kind] for kind in boxes.classes} == expected & set(LABELS.objects)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [render(0, index, 96) for index in range(40)]


def test_every_class_occurs_and_only_people_and_cars_have_boxes(pairs: list[Pair]) -> None:
    seen = np.zeros(len(LABELS), int)
    boxed = list[int]()
    for pair in pairs:
        classes, boxes = labelled(pair)
        assert classes.shape == (96, 96)
        assert classes.dtype == np.uint8
        seen += np.bincount(classes.ravel(), minlength=len(LABELS)) > 0
        boxed += boxes.classes.tolist()
        for (left, top, right, bottom), kind in zip(boxes.xyxy.int().tolist(), boxes.classes, strict=True):
            assert 0 <= left < right <= 96
            assert 0 <= top < bottom <= 96
            assert (classes[top:bottom, left:right] == int(kind)).sum() >= LEAST_PIXELS
    assert (seen >= 4).all()
    assert min(boxed.count(kind) for kind in (PERSON, CAR)) > 10
    assert set(boxed) == {PERSON, CAR}


def test_the_mask_of_targets_is_people_and_running_cars(pairs: list[Pair]) -> None:
    exact = 0
    for index, pair in enumerate(pairs):
        classes, _ = labelled(pair)
        assert pair.target_mask is not None
        mask = pair.target_mask[0].numpy()
        assert np.isin(classes[mask], (PERSON, CAR)).all()
        assert mask[classes == PERSON].all()
        parked = [c for c in sample_scene(0, index, 96)[0].layers if isinstance(c, Car) and not c.running]
        if not parked:
            assert (mask == np.isin(classes, (PERSON, CAR))).all()
            exact += bool(mask.any())
    assert 10 < exact < len(pairs)


def test_labels_move_with_the_pixels(pairs: list[Pair]) -> None:
    """The mask of targets moves too, so that they agree in a patch as they do in the whole image."""
    found = 0
    for index, pair in enumerate(pairs[:12]):
        whole = np.isin(labelled(pair)[0], (PERSON, CAR))
        assert pair.target_mask is not None
        if not (whole == pair.target_mask[0].numpy()).all():  # parked cars
            continue
        batch = paired_crop(pair, 64, 0, index, str(index))
        assert batch.classes is not None
        assert batch.target_mask is not None
        assert batch.boxes is not None
        classes = batch.classes[0].numpy()
        assert (classes != IGNORED).all()
        assert (np.isin(classes, (PERSON, CAR)) == batch.target_mask[0, 0].numpy()).all()
        found += len(batch.boxes[0])
        for (left, top, right, bottom), kind in zip(
            batch.boxes[0].xyxy.int().tolist(), batch.boxes[0].classes, strict=True
        ):
            assert (classes[top:bottom, left:right] == int(kind)).any()
    assert found > 3


def test_a_description_names_each_class_once() -> None:
    assert len(set(LABELS.names)) == len(LABELS.names) == len(set(LABELS.palette)) == len(LABELS.palette)
    assert LABELS.background is None


def test_test_pairs_are_grouped_by_their_condition() -> None:
    source = SyntheticPairs(train=3, val=4, test=9, size=64, seed=1)
    labels, parts = source.labels(), source.parts()
    assert (labels.names, labels.palette) == (LABELS.names, LABELS.palette)
    found = dict[str, str]()
    for name, expression in labels.groups:
        for sample_id in (*parts["train"], *parts["val"], *parts["test"], "first-test-000000"):
            if re.search(expression, sample_id):
                assert found.setdefault(sample_id, name) == name
    assert found.pop("first-test-000000") == found["test-000000"]  # as `data=mixed` names it
    expected = {name: sample_scene(1, 3 * i + 2, 64)[0].weather.name for i, name in enumerate(parts["test"])}
    assert found == expected
    assert len(set(expected.values())) > 2
