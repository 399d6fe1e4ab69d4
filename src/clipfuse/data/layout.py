"""Finds the pairs of a folder by the names of its folders and files."""

import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from clipfuse.data.matching import BAND, PART_NAMES, REMEDY, ImageFile, Mark, PairFiles, pair_all
from clipfuse.data.names import BANDS, INFRARED_NAMES, VISIBLE_NAMES, Words
from clipfuse.decoding.reading import OTHER_SUFFIXES, SUFFIXES
from clipfuse.errors import UserError
from clipfuse.images import check_name, image_files, natural_order

# Folders of well-known sets: several below one root are several data sets, not scenes of one.
SETS = frozenset(
    (
        *("avms", "fmb", "flir", "kaist", "lasher", "llvip", "m3fd", "mfnet", "msrs", "roadscene"),
        *("rgbt234", "tno", "vifb", "vtuav"),
    )
)
# Files of images or video that are not read; they are counted.
LEFT_OUT = frozenset((*OTHER_SUFFIXES, ".avi", ".mp4", ".mov", ".mkv"))
DEEPEST = 8  # levels of folders below the root that are looked through


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        pairs: the pairs by their ids, in natural order.
        left_out: number of files that are in no pair, by what they are.
    """

    pairs: Mapping[str, PairFiles]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        """Return "4 pairs by equal names in two folders; left out 2 files: 1 .gif, 1 broken link"."""
        rules = Counter(pair.rule for pair in self.pairs.values())
        found = ", ".join(f"{count} by {rule}" for rule, count in rules.items())
        text = f"{len(self.pairs)} {'pair' if len(self.pairs) == 1 else 'pairs'}: {found}"
        if total := sum(self.left_out.values()):
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.left_out.items())
            text += f"; left out {total} {'file' if total == 1 else 'files'}: {kinds}"
        return text


def walk(
    root: Path, deep: bool = True, suffixes: Collection[str] = SUFFIXES
) -> tuple[list[ImageFile], Counter[str]]:
    """Return the files below `root` that have one of some suffixes, and how many others, by what they are.

    Hidden files and folders are left out; linked folders are followed, but never into themselves.

    Raises:
        UserError: `root` is no folder, or the name of an image is not sound.
    """
    if not root.is_dir():
        raise UserError(
            f"{root}: no such folder; expected a data set of infrared and visible images; check the path"
        )
    files: list[ImageFile] = []
    left_out: Counter[str] = Counter()

    def look(folder: Path, names: tuple[str, ...], above: tuple[tuple[int, int], ...]) -> None:
        state = folder.stat()
        if (here := (state.st_dev, state.st_ino)) in above:
            return
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                suffix = os.path.splitext(entry.name)[1].lower()
                if entry.name[0] == ".":
                    continue
                if entry.is_dir():
                    if deep and len(names) < DEEPEST:
                        look(folder / entry.name, (*names, entry.name), (*above, here))
                elif suffix in suffixes and entry.is_file():
                    check_name(Path(entry.name).stem)
                    files.append(ImageFile(folder / entry.name, names))
                elif suffix in suffixes or suffix in LEFT_OUT:
                    broken = entry.is_symlink() and not os.path.exists(entry.path)
                    left_out["broken link" if broken else suffix if entry.is_file() else "no file"] += 1

    look(root, (), ())
    return files, left_out


def find_pairs(
    root: Path, infrared: Sequence[str] = (), visible: Sequence[str] = (), both: bool = False
) -> Found:
    """Find the pairs below a folder: in folders of each band, in one folder, or in one folder per scene.

    The deepest folder whose name marks a band, and the name of the file itself, state the band of a file (see
    `Words`). Within what is left of the folders' names, pairs are

    1. files of equal names, where both bands have a folder;
    2. files whose names are equal but for the marks of the bands;
    3. the only infrared and the only visible file of a folder.

    The first rule that leaves no file over is taken. What is left then is tried once more with
    `SECOND_NAMES`.

    Args:
        root: the folder.
        infrared: names of the infrared folders, or marks of the infrared files, in the order of preference;
            () takes all known words.
        visible: the same of the visible band.
        both: whether a command was given the folder for both bands, for the message.

    Raises:
        UserError: there are no pairs, a file of a band has no partner, or there is more than one way to pair
            the files; it names the files or folders.
    """
    files, left_out = walk(root)
    words = _chosen(files, {"infrared": infrared, "visible": visible}, root)
    pairs, rest = pair_all(files, words)
    more, rest = pair_all(rest, words.with_second_names(), sure=False)
    # What is left may lie in two folders whose names mark nothing: 1/IR_7.png and 2/VIS_7.png.
    known = {file.path: file for file in rest}
    parts_only = [
        replace(file, folders=tuple(name for name in file.folders if name.lower() in PART_NAMES))
        for file in rest
        if not any(words.of_folder(name)[0] for name in file.folders)
    ]
    apart, _ = pair_all(parts_only, words, sure=False)
    for pair in apart:
        del known[pair.infrared], known[pair.visible]
    pairs, rest = [*pairs, *apart], list(known.values())
    marked = [mark for file in rest if (mark := Mark.of(file, words))]
    if both and files and not marked and not pairs + more:
        raise UserError(
            f"{root} was given as the folder of both bands, but none of its {len(files)} images marks one by "
            f"its name or folder; give two folders, or {REMEDY}"
        )
    if marked or not pairs + more:
        raise UserError(unpaired(root, files, marked, words))
    other = Counter(file.folders[-1] if file.folders else "." for file in rest)
    if len(other) > 3:
        other = Counter({f"{len(other)} folders": other.total()})
    left_out.update({f"other in {name}": count for name, count in other.items()})
    return with_ids(pairs + more, left_out, root)


def pair_folders(infrared: Path, visible: Path) -> Found:
    """Pair the files of two folders by the rules of `find_pairs`; of one folder for both, what is below it.

    Raises:
        UserError: as `find_pairs` and `image_files`.
    """
    if infrared.is_dir() and visible.is_dir() and infrared.samefile(visible):
        return find_pairs(infrared, both=True)
    files, left_out = [], Counter[str]()
    for band, folder in (("infrared", infrared), ("visible", visible)):
        found, others = walk(folder, deep=False) if folder.is_dir() else ([], Counter())
        if not found:
            image_files(folder)  # which explains why there are none
        files += [replace(file, band=band) for file in found]
        left_out += others
    pairs, rest = pair_all(files, Words())
    more, rest = pair_all(rest, Words().with_second_names(), sure=False)
    other = [file for file in rest if Words().of_file(file.path.stem)[0] not in (None, file.band)]
    if len(other) < len(rest) or not pairs + more:
        raise UserError(no_partner([mark for file in files if (mark := Mark.of(file, Words()))]))
    left_out.update({"of the other band": len(other)} if other else {})
    return with_ids(pairs + more, left_out, infrared)


def _chosen(files: Sequence[ImageFile], names: Mapping[str, Sequence[str]], root: Path) -> Words:
    words = Words()
    for band, given in names.items():
        folders = {name.lower() for file in files for name in file.folders}
        stems = {piece.lower() for file in files for piece in re.findall(r"[^\W\d_]+", file.path.stem)}
        wanted = [name.lower() for name in given]
        if folder := next((name for name in wanted if name in folders), None):
            words = replace(words, folders={**words.folders, band: folder})
        elif mark := next((name for name in wanted if name in stems), None):
            words = (
                replace(words, infrared=(mark,)) if band == "infrared" else replace(words, visible=(mark,))
            )
        elif wanted:
            raise UserError(no_folder(root, band, given))
    return words


def with_ids(pairs: Sequence[PairFiles], left_out: Counter[str], root: Path) -> Found:
    """Give each pair its id: its name, and before it its part, if two parts hold one name.

    Where folders name parts, pairs outside of them are left out.

    Raises:
        UserError: two pairs have one id, or the pairs belong to several well-known data sets.
    """
    sets = {pair.folders[0] for pair in pairs if pair.folders and _is_set(pair.folders[0])}
    if sets:
        names = sorted(sets, key=natural_order)
        raise UserError(
            f"{root}: holds the {'data sets' if len(names) > 1 else 'data set'} {', '.join(names)}; take a "
            f"deeper folder, as in data.root={root / names[0]}"
        )
    if any(pair.part for pair in pairs):
        for pair in pairs:
            if not pair.part:
                left_out[f"in {pair.folders[0] if pair.folders else root.name}, beside the parts"] += 2
        pairs = [pair for pair in pairs if pair.part]
    repeated = len({pair.name for pair in pairs}) < len(pairs)
    named: dict[str, PairFiles] = {}
    for pair in pairs:
        name = f"{pair.part}-{pair.name}" if repeated and pair.part else pair.name
        check_name(name)
        if (other := named.setdefault(name, pair)) is not pair:
            raise UserError(
                f"{pair.infrared} and {other.infrared} would both be called '{name}'; rename one of them"
            )
    return Found({name: named[name] for name in sorted(named, key=natural_order)}, left_out)


def _is_set(name: str) -> bool:
    return re.sub(r"[-_](?:main|master|dataset)$", "", name.lower()) in SETS


def no_folder(folder: Path, band: str, names: Sequence[str]) -> str:
    """Return a message: a folder holds nothing of one band."""
    inside = ", ".join(child.name for child in sorted(folder.iterdir()) if child.is_dir()) or "none"
    return (
        f"{folder}: no {band} folder; expected {' | '.join(names)} (any case), also within a longer name "
        f"such as cropinfrared, crop_LR_visible or IR_01.png; sub-folders found: {inside}; name the one to "
        f"take by data.{band}=NAME, or {REMEDY}"
    )


def unpaired(root: Path, files: Sequence[ImageFile], marked: Sequence[Mark], words: Words) -> str:
    """Return a message about files of a band that have no partner, or about a folder without any."""
    expected = {"infrared": INFRARED_NAMES, "visible": VISIBLE_NAMES}
    if not marked:
        if hint := _hint(root, files):
            return hint
        return no_folder(root, "infrared", expected["infrared"])
    place = marked[0].place
    marks = [m for file in files if (m := Mark.of(file, words)) and m.place == place]
    present = {mark.folder_band or mark.band for mark in marks}
    if len(present) > 1 or BAND not in place:
        return no_partner(marks)
    (band,) = set(BANDS) - present
    above = marks[0].folder.parent
    for child in sorted(above.iterdir()):
        if child.is_dir() and words.of_folder(child.name)[0] == band:
            if after := place[place.index(BAND) + 1 :]:
                both = " and ".join(sorted((marks[0].folder.name, child.name)))
                return (
                    f"{above}: the folder {'/'.join(after)} is in only one of {both}; add its partner or "
                    "remove it"
                )
            return f"{child}: holds no image file ({' '.join(SUFFIXES)}); check the path"
    return no_folder(above, band, expected[band])


def no_partner(marks: Sequence[Mark]) -> str:
    """Return a message: files that have a band and no partner of the other, in one place."""
    foldered = [mark for mark in marks if mark.folder_band]
    for band in BANDS:
        if foldered:
            names = {b: {m.file.path.stem for m in foldered if m.folder_band == b} for b in BANDS}
            where = next((m.folder for m in foldered if m.folder_band == band), foldered[0].folder)
        else:
            names = {b: {m.key for m in marks if m.band == b} for b in BANDS}
            where = marks[0].folder
        total = names["infrared"] | names["visible"]
        if missing := sorted(total - names[band], key=natural_order):
            more = ", ..." if len(missing) > 5 else ""
            same = "of the same name" if foldered else "whose name is the same but for its mark"
            return (
                f"{where}: {len(missing)} of {len(total)} images have no {band} file {same}: "
                f"{', '.join(missing[:5])}{more}; add the {band} files or remove their partners, or {REMEDY}"
            )
    raise AssertionError("every file has a partner")


def _hint(root: Path, files: Sequence[ImageFile]) -> str | None:
    """Return what may be wrong with a folder whose images mark no band."""
    if not files:
        deeper = f"{root}: holds no image file ({' '.join(SUFFIXES)}), nor do its sub-folders; check the path"
        return deeper
    with suppress(OSError, ValueError), Image.open(files[0].path) as image:
        if len(image.getbands()) == 4 and image.mode == "RGBA":
            return (
                f"{root}: its images have four channels, such as {files[0].path}; if the fourth is the "
                f"infrared one (as in MFNet), name their folder by data.fourth={files[0].path.parent.name} "
                "(data=mfnet does); for fuse and score write it to ir/ and the other three to vi/, under one "
                "name"
            )
    return None
