"""Scores equal second implementations that count pixel by pixel in plain Python; sums round, hence 1e-9."""

import math

import pytest
import torch
from torch import Tensor

from clipfuse.downstream.confusion import class_iou, confusion_matrix, mean, mfnet_iou, pooled
from clipfuse.downstream.segmentation import Segmentation
from clipfuse.types import LabelSet

CLASSES = 5
LABELS = LabelSet(("nothing", "car", "person", "bike", "cone"))


def maps(case: str) -> tuple[Tensor, Tensor]:
    """Truth and found, two images; class 4 neither there nor found, or as the case has it."""
    generator = torch.Generator().manual_seed(3)
    truth = torch.randint(0, 4, (2, 9, 11), generator=generator, dtype=torch.uint8)
    found = torch.where(torch.rand(2, 9, 11, generator=generator) < 0.6, truth, truth.flip(2))
    truth[:, 2, 3:6] = 255
    if case == "found, not there":
        found[0, truth[0] == 0] = 4
    elif case == "there, not found":
        truth[1, :3] = 4
    elif case == "found elsewhere":
        found[0, truth[0] == 1] = 4
    return truth, found


def plain_mmseg(truth: Tensor, found: Tensor) -> list[float]:
    scores = []
    for each in range(CLASSES):
        both = either = 0
        for t, f in zip(truth.flatten().tolist(), found.flatten().tolist(), strict=True):
            if t != 255:
                both += t == each and f == each
                either += each in (t, f)
        scores.append(both / either if either else math.nan)
    return scores


def plain_mfnet(truth: Tensor, found: Tensor) -> list[float]:
    """As the evaluator is written: class 0 has 0, and so has a class that was nowhere found."""
    counts = [[0] * CLASSES for _ in range(CLASSES)]
    for t, f in zip(truth.flatten().tolist(), found.flatten().tolist(), strict=True):
        if t != 255:
            counts[t][f] += 1
    scores = [0.0]
    for each in range(1, CLASSES):
        value = 0.0
        if any(row[each] for row in counts):
            row, column = sum(counts[each][1:]), sum(counts[t][each] for t in range(1, CLASSES))
            union = row + column - counts[each][each]
            value = counts[each][each] / union if union else math.nan
        scores.append(value)
    return scores


def nan_mean(values: list[float]) -> float:
    known = [value for value in values if value == value]
    return sum(known) / len(known)


CASES = ("absent", "found, not there", "there, not found", "found elsewhere")


@pytest.mark.parametrize("case", CASES)
def test_the_three_conventions(case: str) -> None:
    truth, found = maps(case)
    matrices = [confusion_matrix(t, f, CLASSES).tolist() for t, f in zip(truth, found, strict=True)]
    scores = Segmentation().scores(LABELS, [{"confusion": each} for each in matrices])
    each_class, mfnet = plain_mmseg(truth, found), plain_mfnet(truth, found)
    expected = {
        "mIoU": nan_mean(each_class),
        "mIoU_foreground": nan_mean(each_class[1:]),
        "mIoU_mfnet": sum(mfnet) / len(mfnet),
        **{f"IoU/{name}": value for name, value in zip(LABELS.names, each_class, strict=True)},
    }
    assert scores.keys() == expected.keys()
    assert scores == pytest.approx({k: 100 * v for k, v in expected.items()}, abs=1e-9, rel=0, nan_ok=True)
    assert math.isnan(scores["IoU/cone"]) == (case == "absent")
    assert math.isnan(scores["mIoU_mfnet"]) == (case == "found, not there")  # 0 / 0 in the evaluator


def test_what_sets_the_conventions_apart() -> None:
    """Half of the car is missed and as much background taken for car: the evaluator sees neither."""
    matrix = torch.tensor([[90, 5, 0], [5, 5, 0], [0, 0, 0]])
    assert class_iou(matrix)[1] == pytest.approx(5 / 15)
    assert mfnet_iou(matrix, 0) == [0.0, 1.0, 0.0]
    assert mfnet_iou(matrix.flip(0, 1), 2) == [0.0, 1.0, 0.0]  # whichever class is the background
    assert math.isnan(class_iou(matrix)[2])


def test_without_background_two_conventions_are_not_defined() -> None:
    labels = LabelSet(("road", "car"), background=None)
    scores = Segmentation().scores(labels, [{"confusion": [[3, 1], [0, 4]]}])
    assert scores["mIoU"] == pytest.approx(100 * (3 / 4 + 4 / 5) / 2)
    assert math.isnan(scores["mIoU_foreground"])
    assert math.isnan(scores["mIoU_mfnet"])


def test_no_image_and_no_class() -> None:
    assert pooled([], 2).tolist() == [[0, 0], [0, 0]]
    assert math.isnan(mean([math.nan]))
    assert math.isnan(mean([1.0, math.nan], absent=False))
    assert mean([1.0, math.nan]) == 1.0
