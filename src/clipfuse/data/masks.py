"""Files that belong to pairs by their names: target masks, maps of classes, fused images."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from clipfuse.data.checks import read_mask
from clipfuse.data.layout import walk
from clipfuse.data.matching import PART_NAMES, ImageFile, PairFiles
from clipfuse.decoding.reading import SUFFIXES
from clipfuse.errors import UserError
from clipfuse.ops.masks import check_levels, target_mask


def files_of_pairs(
    pairs: Mapping[str, PairFiles], files: Iterable[ImageFile], flat: bool = True
) -> dict[str, Path]:
    """Return the file of each pair that has one: named as the pair, its infrared or its visible file.

    Args:
        pairs: by their ids.
        files: the files.
        flat: whether names alone count; else a file must also lie in the folders of its pair.

    Raises:
        UserError: two files belong to one pair; it names both.
    """
    owners: dict[tuple[tuple[str, ...], str], str | None] = {}
    for sample, pair in pairs.items():
        names = {pair.key, pair.infrared.stem, pair.visible.stem} - {sample}
        place = () if flat else pair.folders
        for name in names:  # what would name two pairs names none
            owners[place, name] = None if (place, name) in owners else sample
    owners |= {(() if flat else pair.folders, sample): sample for sample, pair in pairs.items()}
    found: dict[str, Path] = {}
    for file in files:
        owner = owners.get((() if flat else file.folders, file.path.stem))
        if owner is not None and (other := found.setdefault(owner, file.path)) != file.path:
            raise UserError(f"{other} and {file.path} both belong to the pair '{owner}' by name; keep one")
    return found


def find_beside(
    root: Path, name: str, pairs: Mapping[str, PairFiles], suffixes: Collection[str] = SUFFIXES
) -> tuple[bool, dict[str, Path]]:
    """Return whether there is a folder of further files, and the file of each pair that has one in it.

    Args:
        root: folder of the data set.
        name: of the folders, which lie beside those of the bands; or the path of one folder.
        pairs: by their ids. A file belongs to the pair of its name that lies in the same part and scene, or,
            if its folder is in no part, to the pair of its name.
        suffixes: of the files.

    Raises:
        UserError: a pair has two.
    """
    inside = [
        replace(file, folders=tuple(each for each in file.folders if each.lower() != name.lower()))
        for file in walk(root, suffixes=suffixes)[0]
        if name.lower() in (each.lower() for each in file.folders)
    ]
    if inside:
        found = files_of_pairs(pairs, inside, flat=False)
        rest = {sample: pair for sample, pair in pairs.items() if sample not in found}
        apart = [file for file in inside if not {each.lower() for each in file.folders} & PART_NAMES.keys()]
        return True, found | files_of_pairs(rest, [file for file in apart if file.path not in found.values()])
    folder = next((each for each in (root / name, Path(name).expanduser()) if each.is_dir()), None)
    if folder is None:
        return False, {}
    return True, files_of_pairs(pairs, walk(folder, deep=False, suffixes=suffixes)[0])


def find_masks(root: Path, name: str, pairs: Mapping[str, PairFiles]) -> dict[str, Path]:
    """Return the mask file of each pair.

    Args:
        root: folder of the data set.
        name: of the folders of masks, as in `find_beside`.
        pairs: by their ids.

    Raises:
        UserError: there is no such folder, or a pair has no mask or two.
    """
    there, found = find_beside(root, name, pairs)
    if not there:
        raise UserError(
            f"{root}: no folder '{name}' of masks with images; expected its name or path in data.masks"
        )
    if missing := [sample for sample in pairs if sample not in found]:
        raise UserError(
            f"{root}: {len(missing)} of {len(pairs)} pairs have no mask in '{name}': "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}; add them, or leave out the masks"
        )
    return {sample: found[sample] for sample in pairs}


def check_masks(paths: Sequence[Path], classes: Sequence[int] | None) -> None:
    """Require that all files are masks of two values, or maps of classes that hold the classes named.

    Raises:
        UserError: names the first file that is neither, and its values; or the classes that occur nowhere.
    """
    from clipfuse.data.facts import mask_levels  # here: without masks no command needs the cache

    every = mask_levels(paths)
    for path, levels in zip(paths, every, strict=True):
        if -1 in levels:
            raise UserError(
                f"{path}: is in colour or of floating point; expected a gray mask of two values, or a map "
                "with one number per class"
            )
        try:
            check_levels(levels, classes)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None
    found = set().union(*every)
    if classes is not None and (absent := sorted(set(classes) - found)):
        raise UserError(
            f"{paths[0].parent}: no mask holds the class {', '.join(map(str, absent))}; they hold "
            f"{', '.join(map(str, sorted(found)))}"
        )


def read_target_mask(path: Path, classes: Sequence[int] | None) -> Tensor:
    """Read a mask as (1, H, W) bool, True on targets.

    Raises:
        UserError: as `read_mask`, or it is no mask as `target_mask` expects.
    """
    try:
        return target_mask(read_mask(path), classes)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def parse_classes(classes: object, where: str) -> list[int] | None:
    """Return the classes that a user names, as whole numbers from 0 to 255; None where there are none.

    Raises:
        UserError: they are something else.
    """
    if classes is None:
        return None
    given = classes.split(",") if isinstance(classes, str) else classes
    words = [str(each).strip() for each in given] if isinstance(given, Sequence) else []
    if words and all(word.isascii() and word.isdecimal() and int(word) <= 255 for word in words):
        return [int(word) for word in words]
    raise UserError(f"{where} is {classes!r}; expected numbers of classes from 0 to 255, such as [1,2]")
