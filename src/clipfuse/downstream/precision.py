"""Average precision of detection by the arithmetic of COCO, from judgements alone."""

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipfuse.downstream.base import Judgement
from clipfuse.errors import UserError

MOST_FOUND = 100
"""Finds that count on one image, as in COCO."""


def average_precision(judgements: Sequence[Judgement], classes: Sequence[int]) -> NDArray[np.float64]:
    """Return COCO's average precision for ten limits of overlap and each class, (10, K) in 0..1.

    NaN where a class has no object. Of finds of equal score, those of earlier images come first, within an
    image those that are listed first. The limits of overlap and recall are COCO's own in double precision:
    torchmetrics' defaults are rounded to single precision, so that a recall of exactly 0.1 misses its 0.1.

    Raises:
        UserError: the package that scores is not installed.
    """
    require_scorer()
    precision = np.full((10, len(classes)), np.nan)
    present = {row[4] for each in judgements for row in each["objects"]}
    if not present & set(classes):
        return precision
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(
        box_format="xyxy",
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
        rec_thresholds=np.linspace(0, 1, 101).tolist(),
        max_detection_thresholds=[1, 10, MOST_FOUND],
        extended_summary=True,
        backend="faster_coco_eval",
    )
    metric.warn_on_many_detections = False
    metric.update(
        [
            {"boxes": _table(each["found"], 6)[:, :4], "scores": _table(each["found"], 6)[:, 4]}
            | {"labels": _table(each["found"], 6)[:, 5].long()}
            for each in judgements
        ],
        [
            {"boxes": _table(each["objects"], 5)[:, :4], "labels": _table(each["objects"], 5)[:, 4].long()}
            for each in judgements
        ],
    )
    result = metric.compute()
    table = (
        result["precision"].numpy()[:, :, :, 0, -1].mean(axis=1)
    )  # limits, recalls, classes, areas, counts
    columns = {int(kind): column for column, kind in enumerate(result["classes"].reshape(-1))}
    for column, kind in enumerate(classes):
        if kind in present:
            precision[:, column] = table[:, columns[kind]]
    return precision


def require_scorer() -> None:
    """Require the package behind torchmetrics' average precision.

    Raises:
        UserError: it is not installed.
    """
    if find_spec("faster_coco_eval") is None:
        raise UserError(
            "downstream=detection needs the package faster-coco-eval: pip install 'clipfuse[downstream]'"
        )


def _table(rows: Sequence[Sequence[float]], width: int) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, width)
