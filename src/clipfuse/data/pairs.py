"""A data set: named pairs in three parts, read one at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from clipfuse.types import Boxes, LabelSet

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Pair:
    """One registered pair as stored, at its own size and depth.

    Attributes:
        infrared: (1, H, W), uint8, uint16, or float32 in [0, 1].
        visible: (3, H, W) RGB or (1, H, W) gray, of the same kinds.
        target_mask: (1, H, W) bool, True on targets; None where the data has none.
        reference: ideal fused luma, (1, H, W) uint8; None where the data has none.
        classes: class of each pixel, (H, W) uint8, `IGNORED` where it has none; None where the data has no
            map of classes.
        boxes: the objects; None where the data has no boxes, but not where an image shows no object.
        caption: a text about the pair; None where the data has none.
    """

    infrared: Tensor
    visible: Tensor
    target_mask: Tensor | None = None
    reference: Tensor | None = None
    classes: Tensor | None = None
    boxes: Boxes | None = None
    caption: str | None = None

    def nbytes(self) -> int:
        """Return the memory that its tensors take, in bytes."""
        given = [*vars(self).values(), *((self.boxes.xyxy, self.boxes.classes) if self.boxes else ())]
        return sum(value.nbytes for value in given if isinstance(value, Tensor))


@runtime_checkable
class PairSource(Protocol):
    """A data set: `conf/data/*.yaml` names a class of this shape."""

    name: str

    def parts(self) -> Mapping[str, Sequence[str]]:
        """Return the sample ids of "train", "val" and "test", disjoint, in a fixed order."""

    def load(self, sample_id: str) -> Pair:
        """Read or render one pair; the same id always gives the same pair."""

    def scenes(self) -> Mapping[str, str]:
        """Return the scene of each sample that shares one with others; may be missing or empty."""

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of the parts, the content of their images, and the scenes.

        A data set may have more methods: `summary` returns how its pairs were found; `scene_notes`
        returns {"source": where the scenes are from, "warning": what is wrong with them, or None};
        `names_fingerprint` returns the fingerprint of the names alone, which is all that older runs recorded;
        `labels` is described by `labels_of`.
        """


def labels_of(source: PairSource) -> LabelSet | None:
    """Return what the classes and boxes of a data set mean, by its method `labels`; None if it has none."""
    labels: LabelSet | None = getattr(source, "labels", lambda: None)()
    return labels
