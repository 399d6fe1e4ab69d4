"""Average precision, against a slow second implementation of COCO's rules in double precision."""

import importlib.util
import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from clipfuse.comparison.evidence import Detections
from clipfuse.downstream.detection import Detection
from clipfuse.downstream.precision import average_precision
from clipfuse.errors import UserError
from clipfuse.types import LabelSet

Row = Sequence[float]
WIDTHS = (("objects", 5), ("found", 6))
LIMITS = [0.5 + 0.05 * k for k in range(10)]


def overlap(a: Row, b: Row) -> float:
    """Return the intersection over the union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def hits(image: dict[str, Any], kind: int, limit: float) -> list[tuple[float, bool]]:
    """Return score and correctness of the finds of one image: each takes the best free object, in turn."""
    objects = [row for row in image["objects"] if row[4] == kind]
    finds = sorted((row for row in image["found"] if row[5] == kind), key=lambda row: -row[4])[:100]
    free = set(range(len(objects)))
    result = []
    for find in finds:
        best, taken = limit - 1e-10, None
        for each in sorted(free):
            if overlap(find, objects[each]) >= best:  # of equal ones the last, as COCO's loop goes on
                best, taken = overlap(find, objects[each]), each
        free.discard(taken)  # type: ignore[arg-type]
        result.append((find[4], taken is not None))
    return result


def slow(images: Sequence[dict[str, Any]], kind: int, limit: float) -> float:
    """Return the mean over 101 recalls of the highest precision at that recall or more."""
    count = sum(row[4] == kind for each in images for row in each["objects"])
    if count == 0:
        return math.nan
    ranked = sorted((hit for each in images for hit in hits(each, kind, limit)), key=lambda hit: -hit[0])
    right, points = 0, []
    for place, (_, correct) in enumerate(ranked, start=1):
        right += correct
        points.append((right / count, right / place))
    total = 0.0
    for k in range(101):
        total += max((precision for recall, precision in points if recall >= k / 100), default=0.0)
    return total / 101


def scene(draw: random.Random, kinds: Sequence[int], ties: bool) -> dict[str, Any]:
    def box() -> list[float]:
        left, top = draw.uniform(0, 200), draw.uniform(0, 150)
        return [round(v, 2) for v in (left, top, left + draw.uniform(5, 80), top + draw.uniform(5, 80))]

    objects = [[*box(), draw.choice(kinds)] for _ in range(draw.randrange(5))]
    found = []
    for row in objects:
        for _ in range(draw.randrange(3)):  # twice: the second is wrong
            near = [round(v + draw.gauss(0, draw.choice([0.5, 3, 9])), 2) for v in row[:4]]
            if near[0] < near[2] and near[1] < near[3]:
                kind = row[4] if draw.random() < 0.8 else draw.choice([*kinds, 7])
                found.append([*near, draw.random(), kind])
    found += [[*box(), draw.random(), draw.choice([*kinds, 7])] for _ in range(draw.randrange(4))]
    for row in found:
        row[4] = round(row[4], 1 if ties else 6)
    return {"objects": objects, "found": sorted(found, key=lambda row: -row[4])}


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_cocos_arithmetic(seed: int, ties: bool) -> None:
    draw = random.Random(seed)
    images = [scene(draw, (1, 2, 4), ties) for _ in range(25)]
    classes = (1, 2, 3, 4, 7)  # 3 is nowhere, 7 is found but never there
    ours = average_precision(images, classes)
    expected = np.array([[slow(images, kind, limit) for kind in classes] for limit in LIMITS])
    assert np.isnan(ours[:, [2, 4]]).all()
    assert 0.05 < np.nanmean(expected) < 0.95
    # The library divides as we do, with 2.2e-16 added to the number of finds: equal but for rounding.
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9)


def test_compare_computes_the_same_numbers() -> None:
    draw = random.Random(9)
    images = [scene(draw, (1, 2), ties=True) for _ in range(20)]
    labels = LabelSet(("ground", "person", "car"))
    tables = {key: [np.array(each[key]).reshape(-1, width) for each in images] for key, width in WIDTHS}
    theirs = Detections(labels, [str(k) for k in range(20)], tables["objects"], tables["found"])
    again = theirs.scores(np.ones((1, 20)))
    ours = Detection().scores(labels, images)
    assert ours.keys() == again.keys()
    for name, value in ours.items():
        assert again[name][0] == pytest.approx(value, abs=1e-9)


def test_a_recall_of_a_tenth_counts_at_a_tenth() -> None:
    # One of ten objects is found: precision 1 at the recalls 0, 0.01, ... 0.1, eleven of 101.
    objects = [[20.0 * k, 0, 20.0 * k + 10, 10, 0] for k in range(10)]
    ours = average_precision([{"objects": objects, "found": [[0, 0, 10, 10, 0.9, 0]]}], (0,))
    np.testing.assert_allclose(ours, 11 / 101, rtol=0, atol=1e-12)


def test_nothing_found_is_zero_and_nothing_there_is_undefined() -> None:
    there: dict[str, Any] = {"objects": [[0, 0, 9, 9, 1]], "found": []}
    found: dict[str, Any] = {"objects": [], "found": [[0, 0, 9, 9, 0.5, 1]]}
    np.testing.assert_array_equal(average_precision([there], (1,)), np.zeros((10, 1)))
    np.testing.assert_array_equal(average_precision([there, found], (1,)), np.zeros((10, 1)))
    assert np.isnan(average_precision([found], (1,))).all()
    assert np.isnan(average_precision([{"objects": [], "found": []}], (1, 2))).all()


def test_of_equal_scores_the_earlier_image_comes_first() -> None:
    right: dict[str, Any] = {"objects": [[0, 0, 9, 9, 1]], "found": [[0, 0, 9, 9, 0.5, 1]]}
    wrong: dict[str, Any] = {"objects": [], "found": [[0, 0, 9, 9, 0.5, 1]]}
    np.testing.assert_allclose(average_precision([right, wrong], (1,)), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(average_precision([wrong, right], (1,)), 0.5, rtol=0, atol=1e-12)


def test_the_package_that_scores_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("clipfuse.downstream.precision.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"faster-coco-eval: pip install 'clipfuse\[downstream\]'"):
        average_precision([], (1,))
