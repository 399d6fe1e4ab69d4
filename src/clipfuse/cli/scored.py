"""The files that `clipfuse score` reads for each image, found and checked before the first score."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipfuse.data.listed import given_pairs
from clipfuse.data.masks import check_masks, files_of_pairs, find_masks, read_target_mask
from clipfuse.data.matching import ImageFile
from clipfuse.decoding.ranges import Ranges
from clipfuse.errors import UserError
from clipfuse.images import check_sizes, image_files, read_image
from clipfuse.ops.color import rgb_to_luma_chroma
from clipfuse.ops.depth import to_unit

if TYPE_CHECKING:
    from torch import Tensor

    Files = tuple[dict[str, Tensor], dict[str, Tensor], Tensor | None]


def find_files(
    infrared: Path,
    visible: Path,
    pairs: str | None,
    masks: Path | None,
    classes: Sequence[int] | None,
    fused: Mapping[str, Path],
) -> tuple[dict[str, tuple[Path, ...]], str, dict[str, list[str]]]:
    """Return for each image the infrared and the visible file, its mask, and that of each method.

    Only images that every method has are scored. The second value is the sentence how the pairs were found;
    the third names what is left out: of the pairs those that a method lacks, of a method what belongs to no
    scored pair.

    Args:
        infrared: folder of the infrared images.
        visible: folder of the visible images, which may be the same.
        pairs: as for `listed_pairs`.
        masks: folder of target masks or maps of classes; None: there are none.
        classes: the classes that are targets.
        fused: the folder of each method; a fused image has the id of its pair, or the name of a file of it.

    Raises:
        UserError: files cannot be read, differ in size, or are no masks; or all methods have fewer than half
            of the images of the smallest folder, which looks like other names rather than missing images.
    """
    found = given_pairs(infrared, visible, pairs)
    files = {"infrared": {sample: pair.infrared for sample, pair in found.pairs.items()}}
    files["visible"] = {sample: pair.visible for sample, pair in found.pairs.items()}
    fewest, expected = "source", len(found.pairs)
    stems: dict[str, dict[str, Path]] = {}
    common = list(found.pairs)
    for label, folder in fused.items():
        stems[label] = image_files(folder)
        files[label] = files_of_pairs(found.pairs, [ImageFile(path, ()) for path in stems[label].values()])
        common = [sample for sample in common if sample in files[label]]
        if len(stems[label]) < expected:
            fewest, expected = label, len(stems[label])
    if 2 * len(common) < expected:
        first = {"source": found.pairs, **stems}
        examples = ", ".join(f"{label} {next(iter(names))}" for label, names in first.items())
        raise UserError(
            f"{fused.get(fewest, infrared)}: {len(common)} of {expected} {fewest} images have a name that "
            f"all folders have; expected half or more ({examples}); rename files, or check the folders"
        )
    left_out = {"source": [sample for sample in found.pairs if sample not in common]}
    for label, own in stems.items():
        used = {files[label][sample] for sample in common}
        left_out[label] = [stem for stem, path in own.items() if path not in used]
    order = ["infrared", "visible", *fused]
    if masks is not None:
        files["masks"] = find_masks(infrared, str(masks), {name: found.pairs[name] for name in common})
        check_masks(list(files["masks"].values()), classes)
        order.insert(2, "masks")
    elif classes:
        raise UserError("--mask-classes has no effect without --masks; name the folder of the maps")
    together = {sample: tuple(files[word][sample] for word in order) for sample in common}
    check_sizes(together)
    return together, found.summary(), {word: names for word, names in left_out.items() if names}


def read_files(
    paths: Sequence[Path], words: Sequence[str], classes: Sequence[int] | None, ranges: Ranges
) -> "Files":
    """Read the files of one image.

    Args:
        paths: infrared, visible, the mask if there is one, and the fused image of each method.
        words: what each of them is: "infrared", "visible", "masks", labels of methods.
        classes: the classes that are targets.
        ranges: of infrared and visible images; fused ones have the full range.

    Returns:
        By these words (1, 1 or 3, H, W) images in [0, 1], their luma (1, 1, H, W), and the mask or None.

    Raises:
        UserError: a file cannot be read.
    """
    mask, read = None, {}
    for word, path in zip(words, paths, strict=True):
        if word == "masks":
            mask = read_target_mask(path, classes)[None]
        else:
            read[word] = read_image(path, getattr(ranges, word, None))
    colors = {word: to_unit(image)[None] for word, image in read.items()}
    return colors, {word: rgb_to_luma_chroma(image)[0] for word, image in colors.items()}, mask
