"""What task networks found on test images, and its scores over any of these images.

The scores of a downstream task are no means over images: they pool pixels or boxes first. `scores` gives them
for many choices of images at once, which the jackknife needs.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from clipfuse.comparison.statistics import Array
from clipfuse.types import LabelSet

TASKS: Mapping[str, tuple[str, ...]] = {
    "segmentation": ("mIoU", "mIoU_foreground"),
    "detection": ("mAP50", "mAP"),
}
"""Task -> the scores that are columns of the table."""

LIMITS = np.linspace(0.5, 0.95, 10)  # least IoU of a box that is found, as COCO has them
RECALLS = np.linspace(0, 1, 101)  # at which COCO reads the precision
MOST_FOUND = 100  # boxes of one class in an image that count
_EPSILON = np.spacing(1)  # in COCO's denominator


class Evidence(ABC):
    """The judgements of one task network on the images of one source.

    Args:
        labels: of the data set.
        images: names of the images.
        truth: what is truly there, pixels or objects of each class, (images, C).

    Attributes:
        truth: the same.
        absent: names of the classes that no image has.
    """

    def __init__(self, labels: LabelSet, images: Sequence[str], truth: Array) -> None:
        self.truth = truth
        self.absent = {name for name, count in zip(labels.names, truth.sum(axis=0), strict=True) if not count}
        self._groups = {
            name: np.array([re.search(expression, image) is not None for image in images])
            for name, expression in labels.groups
        }

    def scores(self, taken: Array) -> dict[str, Array]:
        """Return each score over each choice of images.

        Args:
            taken: (choices, images), 1 where an image counts, else 0.

        Returns:
            Name -> (choices,), in 0..100, NaN where it is not defined: overall scores, those of each class
            as "IoU/car", and overall scores of each group of images as "mIoU/night".
        """
        found = self._all(taken)
        for group, inside in self._groups.items():
            part = self._all(taken * inside)
            some = (taken * inside).any(axis=1)
            found |= {
                f"{name}/{group}": np.where(some, values, np.nan)
                for name, values in part.items()
                if "/" not in name
            }
        return found

    @abstractmethod
    def _all(self, taken: Array) -> dict[str, Array]:
        """Return overall scores and those of each class."""


class Confusions(Evidence):
    """Evidence of a segmentation.

    Args:
        labels: of the data set, C classes.
        images: names of the images.
        counts: pixels by class, (images, C, C); rows are the truth, columns what was found.
    """

    def __init__(self, labels: LabelSet, images: Sequence[str], counts: Array) -> None:
        super().__init__(labels, images, counts.sum(axis=2))
        self._labels, self._counts = labels, counts

    def _all(self, taken: Array) -> dict[str, Array]:
        pooled = np.tensordot(taken, self._counts, axes=1)
        overlap, background = overlaps(pooled), self._labels.background
        found = {"mIoU": _mean(overlap)}
        undefined = np.full(len(taken), np.nan)
        found["mIoU_foreground"] = found["mIoU_mfnet"] = undefined
        if background is not None:
            found["mIoU_foreground"] = _mean(np.delete(overlap, background, axis=1))
            found["mIoU_mfnet"] = mfnet_overlaps(pooled, background).mean(axis=1)
        found |= {f"IoU/{name}": overlap[:, place] for place, name in enumerate(self._labels.names)}
        return {name: 100 * values for name, values in found.items()}


def overlaps(confusion: Array) -> Array:
    """Return intersection over union of each class, (..., C), of (..., C, C); NaN for an absent class."""
    both = np.diagonal(confusion, axis1=-2, axis2=-1)
    union = confusion.sum(-1) + confusion.sum(-2) - both
    return np.divide(both, union, out=np.full(union.shape, np.nan), where=union > 0)


def mfnet_overlaps(confusion: Array, background: int) -> Array:
    """Return the overlaps of MFNet's evaluator, (..., C): see `clipfuse.downstream.confusion.mfnet_iou`."""
    found = confusion.sum(-2)
    inside = np.delete(confusion, background, axis=-1)  # nothing that was found as background
    missed, wrong = inside.sum(-1), found - confusion[..., background, :]
    both = np.diagonal(confusion, axis1=-2, axis2=-1)
    union = missed + wrong - both
    overlap = np.divide(both, union, out=np.full(union.shape, np.nan), where=union > 0)
    overlap = np.where(found > 0, overlap, 0.0)
    overlap[..., background] = 0.0
    return overlap


def _mean(values: Array) -> Array:
    """Return the mean of the defined values of each line; NaN where none is."""
    known = ~np.isnan(values)
    count = known.sum(-1)
    total = np.where(known, values, 0).sum(-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


class Detections(Evidence):
    """Evidence of a detection, by COCO's evaluation (Lin et al., ECCV 2014; all areas, 100 boxes per class).

    Boxes are matched with objects once: this looks at one image at a time, so that any choice of images only
    merges what was matched. It is written out here because libraries match anew for each choice.

    Args:
        labels: of the data set.
        images: names of the images.
        objects: of each image left, top, right, bottom, class: (K, 5).
        found: of each image left, top, right, bottom, score, class: (D, 6).
    """

    def __init__(
        self, labels: LabelSet, images: Sequence[str], objects: Sequence[Array], found: Sequence[Array]
    ) -> None:
        truth = np.array([np.bincount(each[:, 4].astype(int), minlength=len(labels)) for each in objects])
        super().__init__(labels, images, truth)
        self._labels = labels
        self._classes = []
        for place in labels.countable:
            hits, scores, owners = [], [], []
            for index, (there, boxes) in enumerate(zip(objects, found, strict=True)):
                wanted, own = there[there[:, 4] == place], boxes[boxes[:, 5] == place]
                own = own[np.argsort(-own[:, 4], kind="stable")][:MOST_FOUND]
                hits.append(matched(own[:, :4], wanted[:, :4]))
                scores.append(own[:, 4])
                owners.append(np.full(len(own), index))
            order = np.argsort(-np.concatenate(scores), kind="stable")
            sorted_hits = np.concatenate(hits, axis=1)[:, order]
            self._classes.append((truth[:, place], sorted_hits, np.concatenate(owners)[order]))

    def _all(self, taken: Array) -> dict[str, Array]:
        by_class = np.full((len(taken), len(self._classes), len(LIMITS)), np.nan)
        for choice, inside in enumerate(taken > 0):
            for place, (counts, hits, owners) in enumerate(self._classes):
                if objects := int(counts[inside].sum()):
                    by_class[choice, place] = average_precision(hits[:, inside[owners]], objects)
        by_class *= 100
        found = {"mAP50": _mean(by_class[:, :, 0]), "mAP": _mean(by_class.reshape(len(taken), -1))}
        for place, name in enumerate(self._labels.names[index] for index in self._labels.countable):
            found[f"AP50/{name}"] = by_class[:, place, 0]
            found[f"AP/{name}"] = by_class[:, place].mean(-1)
        return found


def matched(boxes: Array, objects: Array) -> Array:
    """Match boxes with objects of one class in one image, best score first.

    Each box takes the free object that it overlaps most, if by the limit at least.

    Args:
        boxes: left, top, right, bottom, (D, 4), by falling score.
        objects: the same, (K, 4).

    Returns:
        Whether each box has found an object, (limits, D).
    """
    hits = np.zeros((len(LIMITS), len(boxes)), dtype=bool)
    if not len(boxes) or not len(objects):
        return hits
    overlap = box_overlaps(boxes, objects)
    for level, limit in enumerate(LIMITS):
        free = np.ones(len(objects), dtype=bool)
        for place in np.flatnonzero(overlap.max(axis=1) >= limit - 1e-10):
            rest = np.where(free, overlap[place], -1.0)
            best = len(rest) - 1 - int(rest[::-1].argmax())  # of equals the last, as COCO's code does
            if rest[best] >= min(limit, 1 - 1e-10):
                free[best] = False
                hits[level, place] = True
    return hits


def box_overlaps(boxes: Array, objects: Array) -> Array:
    """Return intersection over union of each box with each object, (D, K)."""
    low = np.maximum(boxes[:, None, :2], objects[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], objects[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(-1)
    areas = [(each[:, 2:] - each[:, :2]).prod(-1) for each in (boxes, objects)]
    union = areas[0][:, None] + areas[1][None] - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def average_precision(hits: Array, objects: int) -> Array:
    """Return COCO's average precision, in 0..1, (limits,).

    Args:
        hits: whether each box has found an object, boxes by falling score, (limits, boxes).
        objects: number of objects, above 0.
    """
    if not hits.shape[1]:
        return np.zeros(len(hits))
    right = np.cumsum(hits, axis=1, dtype=np.float64)
    precision = right / (np.arange(1, hits.shape[1] + 1) + _EPSILON)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    padded = np.concatenate([envelope, np.zeros((len(hits), 1))], axis=1)
    return np.array(
        [
            line[np.searchsorted(recall, RECALLS, side="left")].mean()
            for line, recall in zip(padded, right / objects, strict=True)
        ]
    )
