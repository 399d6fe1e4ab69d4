"""The labelled pairs from which the examples of every source are made."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch

from clipfuse.downstream.base import Example, Task
from clipfuse.downstream.sources import Source, as_luma
from clipfuse.errors import UserError
from clipfuse.files import json_sha256
from clipfuse.ops.shelf import Shelf
from clipfuse.types import FusionBatch, LabelSet

INPUTS = ("color", "luma")
Bar = Callable[[Iterable[str], str], Iterable[str]]


def labels_of(data: object, kind: str = "classes") -> LabelSet:
    """Return what the labels of a data set mean.

    Args:
        data: the data set.
        kind: "classes" or "boxes", which a task needs.

    Raises:
        UserError: it has none.
    """
    found: LabelSet | None = getattr(data, "labels", lambda: None)()
    if found is None:
        why = getattr(data, "no_labels", lambda kind: "describe them by data.labels")(kind)
        name = getattr(data, "name", "data")
        raise UserError(f"the data set '{name}' has no labels, which a task network learns from: {why}")
    return found


class Material:
    """The labels of a data set, read once, and what makes examples of its pairs.

    Task networks learn from all pairs that are no test pairs: they have no use for a validation part.

    Args:
        task: what is to be learned.
        labels: as `labels_of`.
        load: returns a pair by its sample id, as a batch of one.
        parts: sample ids of "train", "val" and "test".
        scenes: scene of each sample that shares one.
        fingerprint: of the data set.
        channels: one of `INPUTS`; by "luma" the luma of an image takes the place of its colours.
        bar: wraps names in a progress bar with a title.

    Raises:
        UserError: pairs have no label, or the task cannot use the labels.
    """

    def __init__(
        self,
        task: Task,
        labels: LabelSet,
        load: Callable[[str], FusionBatch],
        parts: Mapping[str, Sequence[str]],
        scenes: Mapping[str, str],
        fingerprint: str,
        channels: str = "color",
        bar: Bar = lambda names, title: names,
    ) -> None:
        if channels not in INPUTS:
            raise UserError(f"input is {channels!r}; expected {' or '.join(INPUTS)}")
        self.task, self.labels, self.channels = task, labels, channels
        self._load, self._bar = load, bar
        self.train = [*parts["train"], *parts.get("val", ())]
        self.test = list(parts["test"])
        self._labelled: dict[str, Example] = {}
        lacking, shelf = [], Shelf()
        for name in bar([*self.train, *self.test], "reading labels"):
            pair = load(name)
            maps = None if pair.classes is None else shelf.keep(pair.classes[0].to(torch.uint8))
            boxes = None if pair.boxes is None else pair.boxes[0]
            size = pair.infrared.shape[-2:]
            blank = torch.zeros(1, 1, 1, dtype=torch.uint8).expand(3, *size)  # of no memory
            if (maps if task.needs == "classes" else boxes) is None:
                lacking.append(name)
            self._labelled[name] = Example(name, scenes.get(name, name), blank, maps, boxes)
        if lacking:
            shown = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
            wanted = "map of classes" if task.needs == "classes" else "boxes"
            mapped = task.needs == "boxes" and all(
                self._labelled[name].classes is not None for name in lacking
            )
            advice = (
                "make them from the maps of classes by downstream.boxes=components" if mapped else "add them"
            )
            raise UserError(
                f"{len(lacking)} of {len(self._labelled)} pairs have no {wanted}, which {task.name} needs: "
                f"{shown}; {advice}, or leave these pairs out by data.split"
            )
        for part, names in (("training", self.train), ("test", self.test)):
            if not names:
                raise UserError(f"the data set has no {part} pairs; give both parts a share by data.test")
        task.check(labels, self.blank(self.train), self.blank(self.test))
        digest = examples_sha256(self.blank([*self.train, *self.test]))
        self._sha256 = json_sha256({"pairs": fingerprint, "labels": digest, "input": channels})

    def in_known_scenes(self) -> int:
        """Return how many test images show a scene that training images show as well."""
        known = {self._labelled[name].scene for name in self.train}
        return sum(self._labelled[name].scene in known for name in self.test)

    def blank(self, names: Sequence[str]) -> list[Example]:
        """Return the examples of pairs with black images."""
        return [self._labelled[name] for name in names]

    def examples(self, source: Source, names: Sequence[str]) -> list[Example]:
        """Return the examples of one source.

        Raises:
            UserError: a pair has no image, or none that can be read or fused.
        """
        made, shelf = [], Shelf()
        for name in self._bar(names, f"images of {source.name}"):
            image = source.image(self._load(name))
            image = as_luma(image) if self.channels == "luma" else image
            made.append(replace(self._labelled[name], image=shelf.keep(image)))
        return made

    def origin(self, source: Source) -> str:
        """Return the SHA-256 of what the examples of a source are made of."""
        return json_sha256({"source": source.origin, "material": self._sha256})


def examples_sha256(examples: Sequence[Example]) -> str:
    """Return the SHA-256 (hex) of names, scenes, images and labels."""
    digest = hashlib.sha256()
    for each in examples:
        boxes = (each.boxes.xyxy, each.boxes.classes) if each.boxes is not None else (None, None)
        digest.update(f"{each.name}\n{each.scene}\n".encode())
        for part in (each.image, each.classes, *boxes):
            digest.update(b"-" if part is None else f"{part.dtype} {tuple(part.shape)}\n".encode())
            if part is not None:
                digest.update(part.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
