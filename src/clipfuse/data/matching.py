"""The rules by which image files are paired by their names."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipfuse.data.names import BANDS, Words
from clipfuse.errors import UserError

PART_NAMES = {
    **{"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"},
    **{"test": "test", "testing": "test", "newtest": "test"},
}
EQUAL = "equal names in two folders"
MARKED = "names that mark the band"
SINGLE = "one file of each band in a folder"
REMEDY = "name both files of each pair by data.pairs (in commands --pairs)"
BAND = "\0"  # stands in a place for the folder of a band


@dataclass(frozen=True)
class ImageFile:
    """An image file and where it lies below the root.

    Attributes:
        path: the file.
        folders: names of the folders from the root to it.
        band: its band, where that is already known.
    """

    path: Path
    folders: tuple[str, ...]
    band: str | None = None


@dataclass(frozen=True)
class PairFiles:
    """The files of one pair.

    Attributes:
        infrared: the infrared file.
        visible: the visible file.
        folders: names of the folders from the root to both, without those that mark a band.
        key: what both names have in common; empty where they are nothing but marks.
        rule: by which the pair was found.
        mask: a file of target masks or classes, if there is one.
        scene: if it is known.
    """

    infrared: Path
    visible: Path
    folders: tuple[str, ...]
    key: str
    rule: str
    mask: Path | None = None
    scene: str | None = None

    @property
    def part(self) -> str | None:
        """The part that a folder names: "train", "val" or "test"; else None."""
        return next((part for name in self.folders if (part := PART_NAMES.get(name.lower()))), None)

    @property
    def name(self) -> str:
        """The folders that are no part, and the key, joined by "-"."""
        kept = [name for name in self.folders if name.lower() not in PART_NAMES]
        return "-".join([*kept, *([self.key] if self.key else [])]) or "pair"


@dataclass(frozen=True)
class Mark:
    """What the names of a file state.

    Attributes:
        file: the file.
        folder: the folder that marks its band; else the one the file lies in.
        place: names of its folders, with `BAND` for the one that marks its band.
        variant: what else the name of that folder holds.
        folder_band: the band that a folder marks, or None.
        band: the band that folder and file mark together; None where they contradict each other.
        key: the name without its marks.
    """

    file: ImageFile
    folder: Path
    place: tuple[str, ...]
    variant: str
    folder_band: str | None
    band: str | None
    key: str

    @classmethod
    def of(cls, file: ImageFile, words: Words) -> "Mark | None":
        """Return the marks of a file; None if there are none."""
        folder, place, variant, folder_band = file.path.parent, file.folders, "", file.band
        for index, name in reversed(list(enumerate(file.folders))):
            found, rest = words.of_folder(name)
            if found:
                part = (rest,) if rest.lower() in PART_NAMES else ()
                place, variant = (*place[:index], *part, BAND, *place[index + 1 :]), "" if part else rest
                folder_band, folder = found, file.path.parents[len(file.folders) - 1 - index]
                break
        file_band, key = words.of_file(file.path.stem)
        if not folder_band and not file_band:
            return None
        agree = len({folder_band, file_band} - {None}) == 1
        return cls(
            file, folder, place, variant, folder_band, (folder_band or file_band) if agree else None, key
        )


@dataclass(frozen=True)
class _Matching:
    rule: str
    pairs: Sequence[tuple[str, Mark, Mark]]
    clashes: Sequence[Sequence[Mark]]
    members: int

    @property
    def complete(self) -> bool:
        return self.members > 0 and 2 * len(self.pairs) == self.members

    def files(self) -> set[tuple[Path, Path]]:
        return {(infrared.file.path, visible.file.path) for _, infrared, visible in self.pairs}


def _match(rule: str, named: Sequence[tuple[str, str, Mark]]) -> _Matching:
    """Pair (key, band, mark) by key."""
    groups: dict[str, dict[str, list[Mark]]] = {}
    for key, band, mark in named:
        groups.setdefault(key, {each: [] for each in BANDS})[band].append(mark)
    pairs = [
        (key, group["infrared"][0], group["visible"][0])
        for key, group in groups.items()
        if all(len(group[band]) == 1 for band in BANDS)
    ]
    clashes = [marks for group in groups.values() for marks in group.values() if len(marks) > 1]
    return _Matching(rule, pairs, clashes, len(named))


def _by_variant(rule: str, named: Sequence[tuple[str, str, Mark]]) -> _Matching:
    """Match, and where names clash match the folders of each variant alone ("day_ir" with "day_vis")."""
    matching = _match(rule, named)
    variants = {mark.variant for _, _, mark in named}
    if not matching.clashes or "" in variants:
        return matching
    alone = [_match(rule, [each for each in named if each[2].variant == variant]) for variant in variants]
    if not all(each.complete for each in alone):
        return matching
    pairs = [
        (f"{infrared.variant}-{key}", infrared, visible)
        for each in alone
        for key, infrared, visible in each.pairs
    ]
    return _Matching(rule, pairs, (), len(named))


def pair_all(
    files: Iterable[ImageFile], words: Words, sure: bool = True
) -> tuple[list[PairFiles], list[ImageFile]]:
    """Return the pairs and the files left over; with `sure=False` only places that come out even count."""
    places: dict[tuple[str, ...], list[Mark]] = {}
    rest = []
    for file in files:
        mark = Mark.of(file, words)
        if mark is None:
            rest.append(file)
        else:
            places.setdefault(mark.place, []).append(mark)
    pairs = []
    for place, marks in places.items():
        chosen = _choose(marks, sure)
        folders = tuple(name for name in place if name != BAND)
        taken = {path for pair in chosen.files() for path in pair}
        rest += [mark.file for mark in marks if mark.file.path not in taken]
        pairs += [
            PairFiles(infrared.file.path, visible.file.path, folders, key, chosen.rule)
            for key, infrared, visible in chosen.pairs
        ]
    return pairs, rest


def _choose(marks: Sequence[Mark], sure: bool) -> _Matching:
    equal = _by_variant(EQUAL, [(m.file.path.stem, m.folder_band, m) for m in marks if m.folder_band])
    marked = _by_variant(MARKED, [(m.key, m.band, m) for m in marks if m.band])
    if equal.complete:
        if marked.pairs and marked.files() != equal.files():
            raise UserError(_two_rules(equal, marked))
        return equal
    if marked.complete:
        return marked
    loose = [mark for mark in marks if not mark.folder_band]
    if len(loose) == len(marks) == 2 and {mark.band for mark in loose} == set(BANDS):
        return _match(SINGLE, [("", str(mark.band), mark) for mark in loose])
    if not sure:
        return _Matching(MARKED, (), (), 0)
    best = max(equal, marked, key=lambda matching: len(matching.pairs))
    if clashes := best.clashes or equal.clashes or marked.clashes:
        raise UserError(_clash(clashes[0]))
    return best


def _two_rules(one: _Matching, other: _Matching) -> str:
    common = one.files() & other.files()
    ways = []
    for matching in (one, other):
        infrared, visible = min(matching.files() - common)
        ways.append(f"{infrared} with {visible} (by {matching.rule})")
    return (
        f"there are two ways to pair the images: {' or '.join(ways)}; keep the files of one band in each "
        f"folder, or {REMEDY}"
    )


def _clash(marks: Sequence[Mark]) -> str:
    one, other = marks[:2]
    (first, second), band = (mark.file.path for mark in marks[:2]), one.folder_band or one.band
    if one.folder != other.folder:
        return (
            f"{one.folder.parent}: {one.folder.name} and {other.folder.name} could all be the {band} folder; "
            "keep one, or name the one to take by data.infrared=NAME or data.visible=NAME"
        )
    if first.stem == second.stem:
        return (
            f"{first.parent}: {first.name} and {second.name} have one name but for the suffix; "
            "files are paired by name, so keep one of the two"
        )
    return (
        f"{first.parent}: {first.name} and {second.name} could both be the {band} file of one pair; "
        f"keep one, name its mark by data.{band}=NAME, or {REMEDY}"
    )


def set_name(folder: Path) -> str:
    """Return the name of a folder, or of the nearest one above that names no part; empty at the root."""
    folder = folder.resolve()
    while folder.name.lower() in PART_NAMES and folder.parent.name:
        folder = folder.parent
    return folder.name
