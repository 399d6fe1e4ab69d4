"""Scores over any images: those of the tasks themselves, and of libraries, for each choice."""

import numpy as np
import pytest
import torch

from clipfuse.comparison.evidence import Confusions, Detections, average_precision, matched
from clipfuse.downstream.confusion import class_iou, mfnet_iou
from clipfuse.downstream.detection import Detection
from clipfuse.downstream.protocols import scored
from clipfuse.downstream.segmentation import Segmentation
from clipfuse.types import LabelSet

LABELS = LabelSet(("none", "car", "person", "bus"), 0, groups=(("day", "D$"), ("night", "N$")))
IMAGES = [f"{index}{'DN'[index % 2]}" for index in range(12)]
CHOICES = np.array([np.ones(12), np.arange(12) > 0, np.arange(12) % 2 == 1, np.arange(12) == 3], dtype=float)


def confusions() -> np.ndarray:
    counts = np.random.default_rng(0).integers(0, 900, (12, 4, 4))
    counts[:, 3] = 0  # no bus is there, and it is found on some images only
    counts[2:, :, 3] = 0
    counts[3] = np.diag([100, 0, 7, 0])
    return counts


def found_and_there() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Boxes to 0.01 with scores that are often equal; persons on few images, a bus on none."""
    generator = np.random.default_rng(1)
    objects, found = [], []
    for index in range(12):
        corners = generator.uniform(0, 80, (index % 5, 2))
        kinds = 1 + (generator.uniform(size=(len(corners), 1)) < 0.3)
        there = np.concatenate([corners, corners + generator.uniform(8, 40, corners.shape), kinds], axis=1)
        moved = there[:, :4] + generator.normal(0, 2, (len(there), 4))
        own = np.concatenate([moved, generator.uniform(0, 1, (len(there), 1)), kinds], axis=1)
        corners = generator.uniform(0, 80, (generator.integers(0, 4), 2))
        shape = (len(corners), 1)
        wrong = [corners, corners + 20, generator.uniform(0, 1, shape), generator.integers(1, 4, shape)]
        own = np.concatenate([own, np.concatenate(wrong, axis=1)])
        own[:, 4] = own[:, 4].round(1)
        objects.append(there.round(2))
        found.append(own[np.argsort(-own[:, 4], kind="stable")].round(2))
    return objects, found


@pytest.mark.parametrize("task", [Segmentation(), Detection()])
def test_scores_are_those_of_the_task_for_every_choice_of_images(task: Segmentation | Detection) -> None:
    objects, found = found_and_there()
    judgements: list[dict[str, object]]
    if isinstance(task, Segmentation):
        judgements = [{"confusion": each.tolist()} for each in confusions()]
        scores = Confusions(LABELS, IMAGES, confusions().astype(float)).scores(CHOICES)
    else:
        pairs = zip(objects, found, strict=True)
        judgements = [{"objects": a.tolist(), "found": b.tolist()} for a, b in pairs]
        scores = Detections(LABELS, IMAGES, objects, found).scores(CHOICES)
    for place, choice in enumerate(CHOICES):
        kept = {name: each for name, each, taken in zip(IMAGES, judgements, choice, strict=True) if taken}
        expected = scored(task, LABELS, kept)
        assert expected.keys() == scores.keys()
        for name, value in expected.items():
            # Sums of a few float64 numbers below 100 in another order.
            assert scores[name][place] == pytest.approx(value, abs=1e-9, nan_ok=True), name


def test_a_class_that_is_nowhere() -> None:
    evidence = Confusions(LABELS, IMAGES, confusions().astype(float))
    assert evidence.absent == {"bus"}
    whole = evidence.scores(CHOICES)
    assert whole["IoU/bus"][0] == 0  # found where none is: mmsegmentation's arithmetic
    assert np.isnan(whole["IoU/bus"][3])  # neither there nor found
    assert np.isnan(whole["mIoU/day"][2])  # night alone
    alone = Confusions(LabelSet(LABELS.names, None), IMAGES, confusions().astype(float)).scores(CHOICES)
    assert np.isnan([alone["mIoU_foreground"], alone["mIoU_mfnet"]]).all()


def test_overlaps_are_those_of_plain_matrices() -> None:
    counts = confusions()
    scores = Confusions(LABELS, IMAGES, counts.astype(float)).scores(np.eye(12))
    for place, matrix in enumerate(torch.tensor(counts)):
        each = [100 * value for value in class_iou(matrix)]
        found = [scores[f"IoU/{name}"][place] for name in LABELS.names]
        assert found == pytest.approx(each, abs=1e-9, nan_ok=True)
        known = 100 * np.mean(mfnet_iou(matrix, 0))
        assert scores["mIoU_mfnet"][place] == pytest.approx(known, abs=1e-9, nan_ok=True)


def test_precision_worked_out_by_hand() -> None:
    # Two objects; hit, miss, hit by falling score: precision 1 at 51 of 101 recalls, 2/3 at 50.
    hits = np.array([[True, False, True]])
    assert average_precision(hits, 2)[0] == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-12)
    assert average_precision(np.zeros((10, 0), dtype=bool), 3).tolist() == [0] * 10
    # The better box takes the object; one that covers 0.6 of it counts at the limits 0.5, 0.55 and 0.6.
    boxes = np.array([[0, 0, 10, 6.0], [0, 0, 10, 10.0]])
    taken = matched(boxes, np.array([[0, 0, 10, 10.0]]))
    assert taken[:3].tolist() == [[True, False]] * 3
    assert taken[3:].tolist() == [[False, True]] * 7
    assert not matched(boxes, np.zeros((0, 4))).any()
