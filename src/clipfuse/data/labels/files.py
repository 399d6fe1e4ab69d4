"""The label files of a data set: found beside its images, checked, and read."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from clipfuse.data.facts import digests, headers
from clipfuse.data.labels import boxes
from clipfuse.data.labels.classes import check_classes, other_size, read_classes
from clipfuse.data.labels.description import KINDS, Description
from clipfuse.data.masks import find_beside
from clipfuse.data.matching import PairFiles
from clipfuse.data.pairs import PARTS, PairSource
from clipfuse.decoding.reading import SUFFIXES
from clipfuse.errors import UserError

_log = logging.getLogger(__name__)
_FIELDS = {"classes": "classes", "boxes": "boxes", "captions": "caption"}
_BoxKind = Literal["voc", "yolo"]


class LabelFiles:
    """The label files that belong to pairs by their names.

    Args:
        root: folder of the data set.
        described: what the files are.
        pairs: by their ids.

    Raises:
        UserError: two files belong to one pair.

    Attributes:
        described: as given.
        files: the file of each pair; empty where there is no such folder, or it holds no such file.
    """

    def __init__(self, root: Path, described: Description, pairs: Mapping[str, PairFiles]) -> None:
        self.described, self._root = described, root
        suffixes = (boxes.SUFFIXES[described.kind],) if described.boxes else SUFFIXES
        self.files = find_beside(root, described.folder, pairs, suffixes)[1]
        self._order = "RGB"

    def __bool__(self) -> bool:
        return bool(self.files)

    def check(self, images: Mapping[str, Path]) -> None:
        """Look at all label files before the work begins.

        Args:
            images: an image of each pair that is used, for its size.

        Raises:
            UserError: a pair has no label file, or one cannot be used; names the first, and the reason.
        """
        if missing := [sample for sample in images if sample not in self.files]:
            remedy = "an image without objects needs an empty one: " if self.described.boxes else ""
            raise UserError(
                f"{self._root}: {len(missing)} of {len(images)} pairs have no label in "
                f"'{self.described.folder}' ({KINDS[self.described.kind]}): {', '.join(missing[:5])}"
                f"{', ...' if len(missing) > 5 else ''}; {remedy}add them, or leave the labels out by "
                "data.labels=null"
            )
        self.files = {sample: self.files[sample] for sample in images}
        paths = list(self.files.values())
        sizes = [(head[1], head[0]) for head in _heads(list(images.values()))]
        if self.described.boxes:
            kind = cast(_BoxKind, self.described.kind)
            if warning := boxes.check_boxes(paths, kind, self.described.labels, sizes):
                _log.warning("%s", warning)
            return
        for path, (high, wide), (width, height, _) in zip(paths, sizes, _heads(paths), strict=True):
            if (width, height) != (wide, high):
                raise UserError(other_size(path, (width, height), (wide, high)))
        self._order = check_classes(paths, self.described)

    def read(self, sample: str, size: tuple[int, int]) -> dict[str, Any]:
        """Return the field of a `Pair` that the labels give: {"classes": (H, W) uint8} or {"boxes": Boxes}.

        Args:
            sample: id of the pair.
            size: its height and width in pixels.

        Raises:
            UserError: as `read_classes` or `read_boxes`.
        """
        path = self.files[sample]
        if self.described.boxes:
            kind = cast(_BoxKind, self.described.kind)
            return {"boxes": boxes.read_boxes(path, kind, self.described.labels, size)}
        return {"classes": read_classes(path, self.described, size, self._order)}

    def facts(self) -> dict[str, Any]:
        """Return what the labels are, in plain types: the bytes of all files and their meaning."""
        meant = self.described
        return {
            "files": dict(zip(self.files, digests(list(self.files.values())), strict=True)),
            "kind": meant.kind,
            "names": meant.labels.names,
            "palette": meant.labels.palette if meant.kind == "color" else (),
            "ignore": meant.ignore,
        }

    def summary(self) -> str:
        """Return "884 maps of 9 classes"."""
        count = len(self.described.labels)
        kind = "files of boxes" if self.described.boxes else "maps"
        return f"{len(self.files)} {kind} of {count} {'class' if count == 1 else 'classes'}"


def _heads(paths: Sequence[Path]) -> list[tuple[int, int, int]]:
    found = []
    for head in headers(paths):
        if isinstance(head, UserError):
            raise head
        found.append(head)
    return found


def require_labels(source: PairSource, needs: Mapping[str, str]) -> None:
    """Require labels of a data set, by looking at its first pair.

    Args:
        source: the data set; its method `no_labels`, if it has one, returns why it lacks a kind of labels.
        needs: some of "classes", "boxes" and "captions", each with what needs it, such as "the loss task".

    Raises:
        UserError: names the kind, what needs it, the data set, and the remedy.
    """
    first = next((sample for part in PARTS for sample in source.parts()[part]), None)
    if first is None or not needs:
        return
    pair = source.load(first)
    for kind, who in needs.items():
        if getattr(pair, _FIELDS[kind]) is None:
            why = getattr(source, "no_labels", no_labels)(kind)
            raise UserError(f"{who} needs {kind}, which the data set '{source.name}' does not have: {why}")


def no_labels(kind: str, described: Description | None = None, root: Path | None = None) -> str:
    """Return why a data set has no labels of a kind, and what to do.

    Args:
        kind: "classes", "boxes" or "captions".
        described: of what is not there.
        root: folder of the data set.
    """
    if kind == "captions":
        return "name a table with the columns name,caption by data.captions=FILE.csv"
    if described is None:
        return "describe its labels by data.labels, as conf/data/msrs.yaml does (docs/data.md)"
    if described.boxes != (kind == "boxes"):
        return (
            f"data.labels describes {KINDS[described.kind]} in '{described.folder}'; describe files of "
            f"{kind} instead (docs/data.md)"
        )
    return (
        f"in {root} no folder '{described.folder}' of {KINDS[described.kind]}, whose files are named as the "
        "pairs, lies beside the folders of the bands; add it, or name another by data.labels.folder"
    )
