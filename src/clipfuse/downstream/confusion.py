"""Confusion matrices of maps of classes, and the conventions by which the field makes scores of them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from clipfuse.types import IGNORED


def confusion_matrix(truth: Tensor, found: Tensor, count: int) -> Tensor:
    """Count pixels by true class (row) and found class (column), without those that have no label.

    Args:
        truth: class of each pixel, (H, W) of whole numbers, 255 where it has none.
        found: class that was found, (H, W) of whole numbers below `count`.
        count: number of classes C.

    Returns:
        (C, C) int64.
    """
    labelled = truth != IGNORED
    cells = truth[labelled].long() * count + found[labelled].long()
    return torch.bincount(cells, minlength=count * count).reshape(count, count)


def pooled(matrices: Sequence[Sequence[Sequence[int]]], count: int) -> Tensor:
    """Return the sum of the matrices of all images, (C, C) int64."""
    if not matrices:
        return torch.zeros(count, count, dtype=torch.int64)
    return torch.tensor(matrices, dtype=torch.int64).sum(dim=0)


def class_iou(matrix: Tensor) -> list[float]:
    """Return intersection over union of each class in 0..1; NaN of a class neither there nor found.

    The arithmetic of mmsegmentation's `IoUMetric`: a class that is found but nowhere there has 0.
    """
    hit = matrix.diagonal().double()
    union = (matrix.sum(dim=0) + matrix.sum(dim=1)).double() - hit
    return (hit / union).tolist()


def mfnet_iou(matrix: Tensor, background: int) -> list[float]:
    """Return intersection over union of each class in 0..1 as MFNet's evaluator computes it.

    After `calculate_result` of github.com/haqishen/MFNet-pytorch, where the background is class 0: pixels
    whose truth is background do not count as wrongly found, and those found as background do not count as
    missed. A class that was nowhere found has 0, as has the background itself; the evaluator's mean is over
    all classes, background included, so that it cannot pass (C - 1) / C. A class that is found on the
    background alone and is nowhere there is NaN (0 / 0), there and here.
    """
    count = len(matrix)
    others = [each for each in range(count) if each != background]
    scores = [0.0] * count
    for each in others:
        if matrix[:, each].sum() > 0:
            hit = int(matrix[each, each])
            union = int(matrix[each, others].sum() + matrix[others, each].sum()) - hit
            scores[each] = hit / union if union else math.nan
    return scores


def mean(values: Sequence[float], absent: bool = True) -> float:
    """Return the mean of numbers; NaN ones are left out if `absent`, else they make it NaN."""
    counted = [each for each in values if not (absent and math.isnan(each))]
    return math.fsum(counted) / len(counted) if counted else math.nan
