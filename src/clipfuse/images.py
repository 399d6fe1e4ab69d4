"""Image files: found by name, read at their full depth, written whole or not at all."""

import os
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from clipfuse.errors import UserError
from clipfuse.files import replace_when_whole
from clipfuse.ops.color import rgb_to_luma_chroma
from clipfuse.ops.depth import from_unit, to_bytes, to_unit

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 100_000_000  # a header can promise any size in a few bytes
_MAX_BYTES = 16 * MAX_PIXELS
_EXPECTED = "expected a PNG, JPEG, BMP or TIFF image"


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Return a sort key by which "2" comes before "10"; equal names but for zeros keep a fixed order."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def check_name(name: str) -> None:
    """Require that a sample's name can be a file name in a folder and a cell of a table.

    Raises:
        UserError: it is empty or longer than 250 bytes, would leave the folder, or has line breaks, other
            control characters or bytes that are no UTF-8.
    """
    reason = None
    if name.strip(".") == "" or {"/", "\\"} & set(name):
        reason = "would leave its folder"
    elif any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        reason = "has control characters or bytes that are no UTF-8"
    elif len(name.encode()) > 250:
        reason = "is longer than 250 bytes"
    if reason:
        short = name if len(name) <= 80 else f"{name[:80]}..."
        raise UserError(f"the name {short!a} {reason}; rename the image")


def image_files(folder: Path) -> dict[str, Path]:
    """Return the image files of `folder` by stem, in natural order; hidden files are left out.

    Raises:
        UserError: if the folder is missing or holds no image, two files have one stem, or a stem is no
            sound name.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a folder of images ({' '.join(SUFFIXES)})")
    entries = sorted((path for path in folder.iterdir() if path.name[0] != "."), key=lambda path: path.name)
    files: dict[str, Path] = {}
    for path in entries:
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        check_name(path.stem)
        if (other := files.setdefault(path.stem, path)) is not path:
            raise UserError(
                f"{folder}: {other.name} and {path.name} have one name but for the suffix; files are "
                "paired by name, so keep one of the two"
            )
    if not files:
        deeper = {path.parent.name for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES}
        hint = f"; its sub-folders do ({', '.join(sorted(deeper)[:5])}): name one of them" if deeper else ""
        raise UserError(f"{folder}: holds no image file ({' '.join(SUFFIXES)}){hint or '; check the path'}")
    return dict(sorted(files.items(), key=lambda item: natural_order(item[0])))


def match_stems(**folders: Path) -> dict[str, tuple[Path, ...]]:
    """Match the images of several folders by stem, whatever their suffixes.

    Args:
        **folders: the folders by their names in messages, such as `infrared=`.

    Returns:
        For each stem, in natural order, one file per folder in the order given.

    Raises:
        UserError: if a stem is missing in some folder, or as `image_files`.
    """
    files = {word: image_files(folder) for word, folder in folders.items()}
    stems = sorted(set().union(*files.values()), key=natural_order)
    for word, found in files.items():
        if missing := [stem for stem in stems if stem not in found]:
            more = ", ..." if len(missing) > 5 else ""
            raise UserError(
                f"{folders[word]}: {len(missing)} of {len(stems)} images have no {word} file of the same "
                f"name: {', '.join(missing[:5])}{more}; add the {word} files or remove their partners"
            )
    return {stem: tuple(found[stem] for found in files.values()) for stem in stems}


def match_common(**folders: Path) -> tuple[dict[str, tuple[Path, ...]], dict[str, list[str]]]:
    """Match the images of several folders by stem, where each folder may hold images that others lack.

    Args:
        **folders: as `match_stems`.

    Returns:
        The files of the stems that all folders have, as `match_stems`; and for each folder with more than
        these its other stems, in natural order.

    Raises:
        UserError: all have fewer than half of the stems of the smallest folder, which looks like other
            names rather than like missing images; or as `image_files`.
    """
    files = {word: image_files(folder) for word, folder in folders.items()}
    fewest = min(files, key=lambda word: len(files[word]))
    common = [stem for stem in files[fewest] if all(stem in found for found in files.values())]
    if 2 * len(common) < len(files[fewest]):
        examples = ", ".join(f"{word} {next(iter(found))}" for word, found in files.items())
        raise UserError(
            f"{folders[fewest]}: {len(common)} of {len(files[fewest])} {fewest} images have a name that all "
            f"folders have; expected half of them or more ({examples}); rename files, or check the folders"
        )
    matched = {stem: tuple(found[stem] for found in files.values()) for stem in common}
    rest = {word: [stem for stem in found if stem not in matched] for word, found in files.items()}
    return matched, {word: stems for word, stems in rest.items() if stems}


def check_sizes(files: Mapping[str, Sequence[Path]]) -> None:
    """Require that the files of each name have one size; only their headers are read.

    Raises:
        UserError: lists the names whose sizes differ; or a file is no image.
    """
    unequal = []
    for paths in files.values():
        sizes = {path: _size(path) for path in paths}
        if len(set(sizes.values())) > 1:
            unequal.append(", ".join(f"{path} {width}x{height}" for path, (width, height) in sizes.items()))
    if unequal:
        more = f"; and {len(unequal) - 5} more" if len(unequal) > 5 else ""
        raise UserError(
            f"{len(unequal)} of {len(files)} images differ in size from their partners: "
            f"{'; '.join(unequal[:5])}{more}; bring them to one size, by the method's own crop or resize"
        )


def _size(path: Path) -> tuple[int, int]:
    with _opened(path) as image:
        return image.size


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Give an image of which only the header is read; every later error is reported as one of the file."""
    size = 0
    try:
        if (size := path.stat().st_size) > _MAX_BYTES:
            raise ValueError(f"a file of {size} bytes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=("PNG", "JPEG", "BMP", "TIFF"))
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width * image.height}")
            if 0 in image.size:
                raise ValueError("it has no pixels")
            yield image
    except Image.DecompressionBombError as error:
        stated = re.findall(r"[0-9]+", str(error))[0]
        raise UserError(
            f"{path}: its header states {stated} pixels; {_EXPECTED} of at most {MAX_PIXELS // 10**6} "
            "megapixels; cut it into tiles"
        ) from None
    except Exception as error:  # on damaged files the decoders raise errors of many kinds
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "not an image of these kinds" if size else "empty file"
        raise UserError(
            f"{path}: cannot be read ({reason}); {_EXPECTED}, 8 or 16 bit, or a gray float TIFF; "
            "check the path, or copy or convert the file again"
        ) from None


def read_image(path: str | Path) -> Tensor:
    """Read an image file at its full depth.

    PNG, JPEG, BMP and TIFF; 8 and 16 bit, gray or colour, and gray float TIFF. Alpha is dropped,
    palettes are resolved, of several TIFF pages the first is read. The EXIF orientation of PNG
    and JPEG is ignored: registered pairs share one pixel grid, and cameras write the tag into one
    band only. TIFF files with an orientation are refused, as some decoders apply it and some do not.

    Returns:
        (1, H, W) gray or (3, H, W) RGB; uint8, uint16, or float32 in [0, 1].

    Raises:
        UserError: if the file is missing, not an image, damaged, of another kind, or of more than
            `MAX_PIXELS`, by its header, before anything is decoded; or if float values are not
            finite or lie outside [0, 1].
    """
    path = Path(path)
    with _opened(path) as image:
        if image.format == "TIFF" and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            raise ValueError("its Orientation tag turns the image: store it upright")
        # Pillow cuts 16-bit colour to 8 bits without a warning; its raw modes show the depth.
        wide = image.format in ("PNG", "TIFF") and any(";16" in str(tile.args) for tile in image.tile)
        array = _read_wide_color(path) if wide and image.mode[0] != "I" else _to_array(image)
    if array.dtype == np.float32:
        _check_float(path, array)
    return _channels_first(array)


def read_registered(infrared: Path, visible: Path) -> tuple[Tensor, Tensor]:
    """Read the two files of a pair; infrared stored as colour is reduced to its luma, in its own depth.

    Returns:
        Infrared (1, H, W) and visible (1 or 3, H, W), as `read_image`.

    Raises:
        UserError: the images differ in size, or as `read_image`.
    """
    thermal, color = read_image(infrared), read_image(visible)
    if thermal.shape[1:] != color.shape[1:]:
        (high, wide), (other_high, other_wide) = thermal.shape[1:], color.shape[1:]
        raise UserError(
            f"{infrared} is {wide} x {high} pixels but {visible} is {other_wide} x {other_high}; a pair "
            "must be registered and of one size: resample one of the two to the grid of the other"
        )
    return gray(thermal), color


def gray(image: Tensor) -> Tensor:
    """Return the luma of an image (..., 1 or 3, H, W), rounded to its own depth; a gray image as it is."""
    if image.shape[-3] == 1:
        return image
    return from_unit(rgb_to_luma_chroma(to_unit(image))[0], image.dtype)


def read_thumbnail(path: str | Path, side: int) -> np.ndarray:
    """Read an image's luma, averaged over areas to a small square and stretched to its own range.

    JPEG is decoded at a fraction of its size.

    Returns:
        (side, side) uint8 from 0 to 255; all 0 where the image is flat.

    Raises:
        UserError: as `read_image`, but for the values of float images.
    """
    with _opened(Path(path)) as image:
        image.draft("L", (2 * side, 2 * side))
        wide = image.mode == "F" or image.mode[0] == "I"
        array = np.array(image if wide else image.convert("L"), dtype=np.float32)
    import cv2

    small = cv2.resize(np.nan_to_num(array), (side, side), interpolation=cv2.INTER_AREA)
    low, high = float(small.min()), float(small.max())
    if high - low <= 1e-5 * abs(high):  # flat, but for the rounding of the means
        return np.zeros((side, side), np.uint8)
    return np.asarray(((small - low) * (255 / (high - low)) + 0.5).astype(np.uint8))


def pil_to_tensor(image: Image.Image, name: str) -> Tensor:
    """Return a PIL image as `read_image` returns a file; what its file held beyond 8 bits of colour is gone.

    Args:
        image: of any mode but 32-bit or signed integers.
        name: of the image, for messages.

    Raises:
        UserError: its mode cannot be used.
    """
    try:
        array = _to_array(image)
    except ValueError as error:
        raise UserError(f"{name}: a PIL image of {error}; expected 8 or 16 bit, or float in [0, 1]") from None
    return _channels_first(array)


def _channels_first(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def _to_array(image: Image.Image) -> np.ndarray:
    if image.mode == "F":
        return np.array(image, dtype=np.float32)
    if image.mode.startswith("I;16"):
        return np.array(image).astype(np.uint16)
    if image.mode == "I":
        raise ValueError("32-bit or signed integers")
    return np.array(image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB"))


def _read_wide_color(path: Path) -> np.ndarray:
    import cv2  # here: most files need it not, and it takes long to import

    array = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16 or array.ndim != 3 or array.shape[2] not in (3, 4):
        raise ValueError("this kind of 16-bit colour is not supported, or it is damaged")
    return array[:, :, 2::-1].copy()


def _check_float(path: Path, array: np.ndarray) -> None:
    if bad := int(array.size - np.isfinite(array).sum()):
        raise UserError(f"{path}: {bad} of {array.size} pixels are NaN or infinite; fill them in before use")
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        raise UserError(
            f"{path}: float values from {low:g} to {high:g}, expected [0, 1]; rescale them, by one range "
            "for the whole data set, or store 16-bit integers"
        )


def write_png(path: str | Path, image: Tensor, *, overwrite: bool) -> None:
    """Write an 8-bit PNG, whole or not at all; missing folders are made.

    Args:
        path: the file.
        image: (1, H, W) gray or (3, H, W) RGB, float in [0, 1]; rounded by `to_bytes`.
        overwrite: whether an existing file may be replaced.

    Raises:
        UserError: if the file exists and `overwrite` is False, or it cannot be written.
        ValueError: if the image has another shape or holds NaN.
    """
    path = Path(path)
    if image.ndim != 3 or image.shape[0] not in (1, 3) or bool(image.isnan().any()):
        raise ValueError(f"{path}: expected an image (1 or 3, H, W) without NaN, got {tuple(image.shape)}")
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"{path}: exists already; choose another folder or give --overwrite")
    data = to_bytes(image.detach().cpu()).permute(1, 2, 0).numpy()
    with replace_when_whole(path, durable=False) as temporary:
        Image.fromarray(data[:, :, 0] if data.shape[2] == 1 else data).save(temporary, format="PNG")
