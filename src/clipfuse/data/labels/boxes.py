"""Boxes of objects as data sets publish them: XML of PASCAL VOC, and text of YOLO.

M3FD and LLVIP publish XML, with corners in whole pixels, which PASCAL VOC counts from 1, both corners inside
of the box. TarDAL's layout of M3FD, MSRS's `detection/labels` and most others have a text file for each
image, one line for each object: class, then centre, width and height as fractions of the image. An image
without objects has an XML without `<object>`, or an empty text file; a file that is missing is an error,
since it looks the same as one that was lost.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple
from xml.etree import ElementTree

import numpy as np
import torch
from tqdm import tqdm

from clipfuse.errors import UserError, did_you_mean
from clipfuse.files import read_text
from clipfuse.types import Boxes, LabelSet

BoxKind = Literal["voc", "yolo"]
SUFFIXES: dict[str, str] = {"voc": ".xml", "yolo": ".txt"}
MOST_BYTES = 2**20  # of one file: some ten thousand objects
OVERHANG = 1.0  # pixels by which a box may lie outside of its image: what rounding does
_SHOWN = 5
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.ASCII | re.IGNORECASE)


class _Object(NamedTuple):
    place: str
    label: int
    edges: tuple[float, float, float, float]


class _Bad(Exception):
    """What is wrong in a file whose name is added by `_objects`."""


def read_boxes(path: Path, kind: BoxKind, labels: LabelSet, size: tuple[int, int]) -> Boxes:
    """Read the objects of one image.

    - `voc`: corners counted from 1 that lie inside of the box (PASCAL VOC's rule, and Detectron2's reading of
      it): the edges are xmin - 1, ymin - 1, xmax, ymax. Labelling programs that count otherwise differ by one
      pixel at most. Classes by name, exactly or else in other letter case. `<difficult>`, `<truncated>` and
      all else is ignored: every object counts. Where there is a `<size>` it must be that of the image.
    - `yolo`: five columns, `class centre_x centre_y width height`; the class counts the names from 0. For the
      80 images of MSRS's `detection`, which have the numbers of COCO, the names begin as COCO's: person,
      bicycle, car, ...

    A box that overhangs the image by `OVERHANG` at most is clipped. Equal boxes of one class count once.

    Args:
        path: the file.
        kind: its format.
        labels: the classes.
        size: height and width of the image in pixels.

    Raises:
        UserError: the file is missing or damaged, is larger than `MOST_BYTES`, has a DOCTYPE, or is for an
            image of another size; a class is unknown or the background; a box is empty, lies outside of the
            image, or has no finite numbers. Names the file and the line or object.
    """
    objects, edges, _ = _objects(path, kind, labels, size)
    return Boxes(torch.from_numpy(edges), torch.tensor([each.label for each in objects], dtype=torch.int64))


def check_boxes(
    paths: Sequence[Path], kind: BoxKind, labels: LabelSet, sizes: Sequence[tuple[int, int]]
) -> str | None:
    """Read the boxes of all images, and return a warning if some are there twice.

    4,200 files of nine objects take half a second, so that nothing is kept between trainings.

    Args:
        paths: a file for each image.
        kind: their format.
        labels: the classes.
        sizes: height and width of each image in pixels.

    Raises:
        UserError: as `read_boxes`, for the first file, with the number of all that cannot be used.
    """
    problems: dict[Path, UserError] = {}
    repeated: Counter[Path] = Counter()
    each = zip(paths, sizes, strict=True)
    for path, size in tqdm(
        each, "looking at boxes", len(paths), delay=1.0, leave=False, unit="file", disable=None
    ):
        try:
            if twice := _objects(path, kind, labels, size)[2]:
                repeated[path] = twice
        except UserError as error:
            problems[path] = error
    if problems:
        (_, first), *others = problems.items()
        count = f"{len(problems)} of {len(paths)} files of boxes cannot be used: " if others else ""
        more = "; nor can " + ", ".join(path.name for path, _ in others[:_SHOWN]) if others else ""
        raise UserError(f"{count}{first}{more}{', ...' if len(others) > _SHOWN else ''}")
    if not repeated:
        return None
    return (
        f"{len(repeated)} of {len(paths)} files, such as {next(iter(repeated))}, repeat {repeated.total()} "
        "boxes; each counts once (a converter that appends to its files repeats all when it runs twice)"
    )


def _objects(
    path: Path, kind: BoxKind, labels: LabelSet, size: tuple[int, int]
) -> tuple[list[_Object], np.ndarray, int]:
    """Return the different objects, their clipped edges (K, 4) float32, and how many were left out."""
    expected = "a PASCAL VOC file (XML)" if kind == "voc" else "a YOLO file (text)"
    nothing = "one without <object>" if kind == "voc" else "an empty one"
    remedy = f"restore it; an image without objects has {nothing}"
    text = read_text(path, most=MOST_BYTES, remedy=remedy, expected=expected)
    try:
        every = list(_READERS[kind](text, labels, size))
        objects = list({(each.label, each.edges): each for each in reversed(every)}.values())[::-1]
        return objects, _clipped(objects, labels, size), len(every) - len(objects)
    except _Bad as bad:
        raise UserError(f"{path}: {bad}") from None


def _clipped(objects: Sequence[_Object], labels: LabelSet, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    limits = np.array([width, height, width, height], np.float64)
    edges = np.array([each.edges for each in objects], np.float64).reshape(-1, 4)
    clipped = edges.clip(0, limits).astype(np.float32)
    inside = np.asarray(((edges >= -OVERHANG) & (edges <= limits + OVERHANG)).all(1))
    full = (clipped[:, 2:] > clipped[:, :2]).all(1)
    for number in np.flatnonzero(~(inside & full))[:1]:
        each = objects[number]
        left, top, right, bottom = (f"{edge:g}" for edge in each.edges)
        where = f"from ({left}, {top}) to ({right}, {bottom}) in an image of {width} x {height} pixels"
        reason = "is empty" if inside[number] else "reaches out of its image"
        raise _Bad(f"{each.place} ({labels.names[each.label]}) {reason}: {where}; correct or remove it")
    return clipped


def _read_yolo(text: str, labels: LabelSet, size: tuple[int, int]) -> Iterator[_Object]:
    height, width = size
    for number, line in enumerate(text.split("\n"), 1):
        words, place = line.split(), f"line {number}"
        if not words:
            continue
        if len(words) != 5:
            raise _Bad(
                f"{place} has {len(words)} columns; expected 5: class centre_x centre_y width height, all "
                "but the class as fractions of the image"
            )
        kind, x, y, wide, high = (_number(word, place) for word in words)
        if kind != int(kind) or not 0 <= kind < len(labels):
            raise _Bad(
                f"{place} is of class {words[0][:40]}; expected a number from 0 to {len(labels) - 1} "
                f"({_shown(labels.names)}): correct it, or complete data.labels.classes"
            )
        edges = (
            (x - wide / 2) * width,
            (y - high / 2) * height,
            (x + wide / 2) * width,
            (y + high / 2) * height,
        )
        yield _Object(place, _no_background(int(kind), labels, place), edges)


def _read_voc(text: str, labels: LabelSet, size: tuple[int, int]) -> Iterator[_Object]:
    # Nothing but a DOCTYPE can define entities, which would expand without bounds or name other files. The
    # text is decoded already, so that no other encoding hides it.
    if "<!DOCTYPE" in text:
        raise _Bad("has a DOCTYPE, which no file of boxes needs; remove it")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise _Bad(f"cannot be read as XML ({' '.join(str(error).split())}); restore the file") from None
    if root.tag != "annotation":
        raise _Bad(f"begins with {_repr(root.tag)}; expected <annotation>, as PASCAL VOC has it")
    if root.find("size") is not None:
        stated = _one(root, "size", "the file")
        wide, high = (_number(_text(stated, tag, "its size"), "its size") for tag in ("width", "height"))
        if (high, wide) != size:
            raise _Bad(
                f"is for an image of {wide:g} x {high:g} pixels, but its image has {size[1]} x {size[0]}; "
                "give the image at that size"
            )
    exact = {name: index for index, name in enumerate(labels.names)}
    count = Counter(name.casefold() for name in exact)
    folded = {name.casefold(): index for name, index in exact.items() if count[name.casefold()] == 1}
    for number, item in enumerate(root.findall("object"), 1):
        place = f"object {number}"
        name = _text(item, "name", place)
        index = exact.get(name, folded.get(name.casefold()))
        if index is None:
            raise _Bad(
                f"{place} is named {_repr(name)}; expected one of {_shown(labels.names)}: correct it, or "
                f"add it to data.labels.classes.{did_you_mean(name[:60], labels.names)}"
            )
        box = _one(item, "bndbox", place)
        left, top, right, bottom = (
            _number(_text(box, tag, place), place) for tag in ("xmin", "ymin", "xmax", "ymax")
        )
        yield _Object(place, _no_background(index, labels, place), (left - 1, top - 1, right, bottom))


_READERS: dict[str, Callable[[str, LabelSet, tuple[int, int]], Iterator[_Object]]] = {
    "voc": _read_voc,
    "yolo": _read_yolo,
}


def _no_background(index: int, labels: LabelSet, place: str) -> int:
    if index == labels.background:
        raise _Bad(
            f"{place} is of class {index} ({labels.names[index]}), the background, which has no boxes; "
            "correct it, or set data.labels.background=null"
        )
    return index


def _number(word: str, place: str) -> float:
    value = float(word) if _NUMBER.fullmatch(word) else math.nan
    if not math.isfinite(value):
        raise _Bad(f"{place} has {_repr(word)}; expected a finite number")
    return value


def _one(parent: ElementTree.Element, tag: str, place: str) -> ElementTree.Element:
    found = parent.findall(tag)
    if len(found) != 1:
        raise _Bad(f"{place} has {len(found) or 'no'} <{tag}>; expected one")
    return found[0]


def _text(parent: ElementTree.Element, tag: str, place: str) -> str:
    return (_one(parent, tag, place).text or "").strip()


def _repr(text: str) -> str:
    return repr(text) if len(text) <= 40 else f"{text[:40]!r}..."


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
