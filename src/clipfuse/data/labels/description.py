"""What the label files of a data set are and mean: the setting `data.labels`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipfuse.errors import UserError, did_you_mean
from clipfuse.files import read_text
from clipfuse.ops.expressions import MOST_GROUPS, quick
from clipfuse.types import IGNORED, LabelSet

KINDS = {
    "index": "maps of classes, one number per class",
    "color": "maps of classes in colours",
    "voc": "boxes in XML of PASCAL VOC",
    "yolo": "boxes in text of YOLO",
}
_KEYS = ("folder", "kind", "classes", "palette", "background", "groups", "objects", "ignore")
_MOST_BYTES = 2**16
_VALUES = (*range(256), 65535)
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Description:
    """How the label files of a data set are found and read.

    Attributes:
        folder: name of the folders of labels, which lie beside those of the bands, or the path of one.
        kind: one of `KINDS`.
        labels: what the classes mean.
        ignore: what the files hold where there is no label: a number, or for `color` a colour; None: nothing.
    """

    folder: str
    kind: str
    labels: LabelSet
    ignore: int | Color | None = None

    @property
    def boxes(self) -> bool:
        """Whether the files hold boxes, not maps of classes."""
        return self.kind in ("voc", "yolo")


def parse_labels(given: object, root: Path, where: str = "data.labels") -> Description | None:
    """Return the description that a user gives as a mapping; None for None.

    `folder`, `kind` and `classes` are needed. `classes` is a list of names in the order of their numbers, or
    a text file of one name per line (`*.txt`, a path or relative to `root`). The others may be left out:
    `palette`, RGB of each class, which `color` needs; `background`, the class that is no object; `groups`,
    regular expressions over sample ids by the names of what is also scored apart; `objects`, names of the
    classes whose things are counted and boxed; `ignore`.

    Args:
        given: the setting.
        root: folder of the data set.
        where: the setting's name, for messages.

    Raises:
        UserError: names the key and the value, and what was expected.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise _wrong(where, given, f"null or a mapping of {', '.join(_KEYS)}")
    for key in given:
        if key not in _KEYS:
            raise UserError(
                f"{where} has a key {key!r}; expected some of {', '.join(_KEYS)}.{did_you_mean(key, _KEYS)}"
            )
    folder, kind = given.get("folder"), given.get("kind")
    if not isinstance(folder, str) or not folder.strip():
        raise _wrong(f"{where}.folder", folder, "the name of the folders of labels, or the path of one")
    if not isinstance(kind, str) or kind not in KINDS:
        near = did_you_mean(str(kind), KINDS)
        raise _wrong(
            f"{where}.kind", kind, "; ".join(f"{name} ({text})" for name, text in KINDS.items()) + near
        )
    names = class_names(given.get("classes"), root, f"{where}.classes")
    palette = _palette(given.get("palette"), len(names), f"{where}.palette")
    if kind == "color":
        if not palette:
            raise UserError(
                f"{where}.kind=color needs {where}.palette: RGB of each of the {len(names)} classes"
            )
        if len(set(palette)) < len(palette):
            raise UserError(
                f"{where}.palette gives two classes one colour, by which they cannot be told apart"
            )
    background = given.get("background")
    if background is not None and (type(background) is not int or not 0 <= background < len(names)):
        raise _wrong(f"{where}.background", background, f"null or a class from 0 to {len(names) - 1}")
    ignore = given.get("ignore")
    if kind == "color" and ignore is not None:
        ignore = _palette([ignore], 1, f"{where}.ignore")[0]
    elif ignore is not None and (kind != "index" or type(ignore) is not int or ignore not in _VALUES):
        raise _wrong(
            f"{where}.ignore",
            ignore,
            "null; a number from 0 to 255 for kind=index; an RGB colour for maps in colours",
        )
    groups = _groups(given.get("groups"), names, f"{where}.groups")
    objects = _objects(given.get("objects"), names, f"{where}.objects")
    labels = LabelSet(names, background, palette, groups, objects)
    return Description(folder.strip(), kind, labels, ignore)


def _wrong(where: str, given: object, expected: str) -> UserError:
    return UserError(f"{where} is {given!r}; expected {expected}")


def class_names(given: Any, root: Path, where: str) -> tuple[str, ...]:
    """Return the names of the classes, given as a list or as a text file of one name per line.

    Args:
        given: the setting.
        root: folder of the data set, below which the file may lie.
        where: the setting's name, for messages.

    Raises:
        UserError: names the setting, and what was expected.
    """
    if isinstance(given, str) and given.endswith(".txt"):
        file = next((each for each in (root / given, Path(given).expanduser()) if each.is_file()), None)
        if file is None:
            raise UserError(f"{where}={given}: no such file, nor below {root}; expected one name per line")
        given = [line.strip() for line in read_text(file, most=_MOST_BYTES).splitlines() if line.strip()]
    names = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise _wrong(where, given, "the names of the classes 0, 1, ... as texts, or a .txt file of them")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{where} names {twice[0]!r} twice; give each class a name of its own")
    if len(names) > IGNORED:
        raise UserError(f"{where} names {len(names)} classes; expected {IGNORED} at most")
    return tuple(name.strip() for name in names)


def _palette(given: Any, count: int, where: str) -> tuple[Color, ...]:
    colors = [] if given is None else list(given) if isinstance(given, Sequence) else [None]
    for color in colors:
        levels = list(color) if isinstance(color, Sequence) else []
        if len(levels) != 3 or not all(type(level) is int and 0 <= level <= 255 for level in levels):
            raise _wrong(where, color, "RGB as three whole numbers from 0 to 255, such as [64, 0, 128]")
    if colors and len(colors) != count:
        raise UserError(f"{where} has {len(colors)} colours for {count} classes; expected one for each")
    return tuple((color[0], color[1], color[2]) for color in colors if color is not None)


def _groups(given: Any, names: Sequence[str], where: str) -> tuple[tuple[str, str], ...]:
    if given is None:
        return ()
    if not isinstance(given, Mapping):
        raise _wrong(where, given, "a mapping of names and regular expressions over sample ids")
    if len(given) > MOST_GROUPS:
        raise UserError(f"{where} has {len(given)} groups; expected {MOST_GROUPS} at most")
    for name, expression in given.items():
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name) or name in names:
            raise UserError(f"{where} has a group {name!r}; expected a word that is no name of a class")
        try:
            re.compile(expression)
        except (re.error, TypeError) as error:
            raise UserError(
                f"{where}.{name} is {expression!r}, no regular expression ({error}); expected one over the "
                "sample ids, such as 'N$'"
            ) from None
        if not quick(expression):
            raise UserError(
                f"{where}.{name} is {expression[:60]!r}, which compare would not run; expected at most three "
                "repetitions, none of a group, no (?...) and no reference back, such as '^[Nn]ight'"
            )
    return tuple(given.items())


def _objects(given: Any, names: Sequence[str], where: str) -> tuple[str, ...]:
    if given is None:
        return ()
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise _wrong(where, given, "null or a list of names of classes")
    for name in given:
        if name not in names:
            raise UserError(
                f"{where} names {name!r}; expected some of {', '.join(names)}."
                f"{did_you_mean(str(name), names)}"
            )
    return tuple(given)
