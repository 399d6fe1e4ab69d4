"""The files that `clipfuse score` reads for each image, found and checked before the first score."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from clipfuse.data.listed import given_pairs
from clipfuse.data.masks import check_masks, files_of_pairs, find_masks
from clipfuse.data.matching import ImageFile, PairFiles
from clipfuse.errors import UserError
from clipfuse.images import check_sizes, image_files


def find_files(
    infrared: Path,
    visible: Path,
    pairs: str | None,
    masks: Path | None,
    classes: Sequence[int] | None,
    fused: Mapping[str, Path],
) -> tuple[dict[str, tuple[Path, ...]], str]:
    """Return for each image the infrared and the visible file, its mask, and that of each method.

    The second value is the sentence how they were found.

    Args:
        infrared: folder of the infrared images.
        visible: folder of the visible images, which may be the same.
        pairs: as for `listed_pairs`.
        masks: folder of target masks or maps of classes; None: there are none.
        classes: the classes that are targets.
        fused: the folder of each method; a fused image has the id of its pair, or the name of a file of it.

    Raises:
        UserError: files are missing, cannot be read, differ in size, or are no masks.
    """
    found = given_pairs(infrared, visible, pairs)
    files: list[Mapping[str, Path]] = [
        {sample: pair.infrared for sample, pair in found.pairs.items()},
        {sample: pair.visible for sample, pair in found.pairs.items()},
    ]
    if masks is not None:
        files.append(find_masks(infrared, str(masks), found.pairs))
        check_masks(list(files[-1].values()), classes)
    elif classes:
        raise UserError("--mask-classes has no effect without --masks; name the folder of the maps")
    files += [_of_method(label, folder, found.pairs) for label, folder in fused.items()]
    together = {sample: tuple(each[sample] for each in files) for sample in found.pairs}
    check_sizes(together)
    return together, found.summary()


def _of_method(label: str, folder: Path, pairs: Mapping[str, PairFiles]) -> Mapping[str, Path]:
    images = [ImageFile(path, ()) for path in image_files(folder).values()]
    own = files_of_pairs(pairs, images)
    if missing := [sample for sample in pairs if sample not in own]:
        more = ", ..." if len(missing) > 5 else ""
        raise UserError(
            f"{folder}: {len(missing)} of {len(pairs)} images have no {label} file of the same name: "
            f"{', '.join(missing[:5])}{more}; add the {label} files or remove their partners"
        )
    used = set(own.values())
    if extra := [file.path.stem for file in images if file.path not in used]:
        more = ", ..." if len(extra) > 5 else ""
        raise UserError(
            f"{folder}: {len(extra)} of its {len(images)} images belong to no pair: "
            f"{', '.join(extra[:5])}{more}; remove them or add their sources"
        )
    return own
