"""Image files: found by name, read at their full depth, written whole or not at all."""

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipfuse.decoding.ranges import Range, Ranges
from clipfuse.decoding.reading import (
    OTHER_SUFFIXES,
    SUFFIXES,
    Stored,
    decode,
    decode_small,
    deep_files,
    narrow_range,
    pil_pixels,
    read_header,
)
from clipfuse.errors import UserError
from clipfuse.files import replace_when_whole
from clipfuse.ops.color import rgb_to_luma_chroma
from clipfuse.ops.depth import from_unit, to_bytes, to_unit

_log = logging.getLogger(__name__)
_warned: set[Path] = set()  # folders whose range this process has warned of


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

    A warning counts the images of other kinds, and the links that lead nowhere.

    Raises:
        UserError: if the folder is missing or holds no image, two files have one stem, or a stem is no
            sound name.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a folder of images ({' '.join(SUFFIXES)})")
    entries = sorted((path for path in folder.iterdir() if path.name[0] != "."), key=lambda path: path.name)
    files: dict[str, Path] = {}
    for path in entries:
        if not path.is_file() or path.suffix.lower() not in SUFFIXES:
            continue
        check_name(path.stem)
        if (other := files.setdefault(path.stem, path)) is not path:
            raise UserError(
                f"{folder}: {other.name} and {path.name} have one name but for the suffix; files are "
                "paired by name, so keep one of the two"
            )
    left_out = _left_out(entries)
    if not files:
        deeper = {path.parent.name for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES}
        hint = f"; its sub-folders do ({', '.join(sorted(deeper)[:5])}): name one of them" if deeper else ""
        raise UserError(
            f"{folder}: holds no image file ({' '.join(SUFFIXES)}){hint or '; check the path'}"
            f"{f'; {left_out} are not read: convert them to PNG' if left_out else ''}"
        )
    if left_out:
        _log.warning(
            "%s: left out %s; convert them to PNG or mend the links to take them in", folder, left_out
        )
    return dict(sorted(files.items(), key=lambda item: natural_order(item[0])))


def _left_out(entries: Sequence[Path]) -> str:
    """Return how many images of other kinds and how many broken links there are, in words; "" for none."""
    kinds = Counter(path.suffix.lower() for path in entries if path.is_file())
    words = [
        f"{kinds[suffix]} {suffix} file{'s' * (kinds[suffix] > 1)}"
        for suffix in OTHER_SUFFIXES
        if kinds[suffix]
    ]
    if broken := sum(path.is_symlink() and not path.exists() for path in entries):
        words.append(f"{broken} broken link{'s' * (broken > 1)}")
    return " and ".join(words)


def check_sizes(files: Mapping[str, Sequence[Path]]) -> None:
    """Require that the files of each name have one size; only their headers are read.

    Args:
        files: infrared and visible first.

    Raises:
        UserError: lists the names whose sizes differ; a file is no image; or infrared and visible image are
            turned differently by their orientation tags.
    """
    unequal = []
    for paths in files.values():
        headers = {path: read_header(path) for path in paths}
        sizes = {path: (header.width, header.height) for path, header in headers.items()}
        if len(paths) > 1:
            warm, seen = paths[:2]
            check_turned(warm, seen, headers[warm].orientation, headers[seen].orientation)
        if len(set(sizes.values())) > 1:
            unequal.append(", ".join(f"{path} {width}x{height}" for path, (width, height) in sizes.items()))
    if unequal:
        more = f"; and {len(unequal) - 5} more" if len(unequal) > 5 else ""
        raise UserError(
            f"{len(unequal)} of {len(files)} images differ in size from their partners: "
            f"{'; '.join(unequal[:5])}{more}; bring them to one size, by the method's own crop or resize"
        )


def read_image(path: str | Path, values: Range | None = None) -> Tensor:
    """Read an image file at its full depth, upright.

    PNG, JPEG, BMP, TIFF and WebP, by their own tags; docs/images.md lists what is read and how. Alpha is
    dropped, palettes are resolved, gamma and colour profiles are ignored.

    Args:
        path: the file.
        values: which stored values are black and white, in files of more than 8 bits; None: as the file's
            tags say.

    Returns:
        (1, H, W) gray or (3, H, W) RGB; uint8, uint16, or float32 in [0, 1].

    Raises:
        UserError: as `decode`; or values that no tag and no range gives a meaning: floats outside [0, 1],
            signed and 32-bit integers; or floats that are not finite.
    """
    path = Path(path)
    return _in_range(path, decode(path), values)


def _in_range(path: Path, stored: Stored, values: Range | None) -> Tensor:
    array, white = stored.values, stored.white
    if array.dtype == np.float32 and (bad := int(array.size - np.isfinite(array).sum())):
        raise UserError(f"{path}: {bad} of {array.size} pixels are NaN or infinite; fill them in before use")
    if array.dtype == np.uint8 and white == 255:
        return _channels_first(array)
    if values is not None:
        return _channels_first(values.apply(array))
    low, high = float(array.min()), float(array.max())
    if white is None or low < 0 or high > white:
        kind = "float values" if white else f"{8 * array.itemsize}-bit integers"
        expected = ", expected [0, 1]" if white else ", of which no tag states what is white"
        raise UserError(
            f"{path}: {kind} from {low:g} to {high:g}{expected}; give the values of black and white, "
            f"alike for all files, by data.range=[{low:g},{high:g}] (fuse, score: --range={low:g},{high:g})"
        )
    if array.dtype == np.float32 or white in (255, 65535):
        return _channels_first(array)
    return _channels_first(np.divide(array, np.float32(white), dtype=np.float32))


def read_registered(infrared: Path, visible: Path, ranges: Ranges | None = None) -> tuple[Tensor, Tensor]:
    """Read the two files of a pair; infrared stored as colour is reduced to its luma, in its own depth.

    Returns:
        Infrared (1, H, W) and visible (1 or 3, H, W), as `read_image`.

    Raises:
        UserError: the images differ in size, only one of them was turned by its orientation tag, or as
            `read_image`.
    """
    ranges = ranges or Ranges()
    warm, seen = decode(infrared), decode(visible)
    check_turned(infrared, visible, warm.orientation, seen.orientation)
    thermal, color = _in_range(infrared, warm, ranges.infrared), _in_range(visible, seen, ranges.visible)
    if thermal.shape[1:] != color.shape[1:]:
        (high, wide), (other_high, other_wide) = thermal.shape[1:], color.shape[1:]
        raise UserError(
            f"{infrared} is {wide} x {high} pixels but {visible} is {other_wide} x {other_high}; a pair "
            "must be registered and of one size: resample one of the two to the grid of the other"
        )
    return gray(thermal), color


def check_ranges(
    pairs: Sequence[Sequence[Path]], ranges: Ranges, setting: str = "data.range=[{},{}]"
) -> None:
    """Warn where files use a small part of their range and none is set, or where a range has no effect.

    Args:
        pairs: infrared and visible file first.
        ranges: that are set.
        setting: how a range is set, with places for two values.

    Raises:
        UserError: a file that is looked at cannot be read.
    """
    used = False
    for place, known in enumerate((ranges.infrared, ranges.visible)):
        deep = deep_files([files[place] for files in pairs])
        used |= bool(known and deep)
        narrow = narrow_range(deep, setting) if deep and not known else None
        if narrow and deep[0].parent not in _warned:
            _warned.add(deep[0].parent)
            _log.warning(narrow)
    if ranges and not used and pairs:
        _log.warning(
            "%s has no effect: %s and its like have 8 bits, and are read as they are",
            *(setting.partition("=")[0], pairs[0][0]),
        )


def check_turned(infrared: Path, visible: Path, first: int, second: int) -> None:
    """Require that two files have one orientation tag.

    Raises:
        UserError: they have not.
    """
    if first != second:
        raise UserError(
            f"{infrared} has the orientation tag {first} but {visible} {second}: they may not lie on each "
            "other; store both upright, or remove the tag that is wrong (exiftool -Orientation= FILE)"
        )


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
    array = decode_small(Path(path), side)
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
        array = pil_pixels(image)
    except ValueError as error:
        raise UserError(f"{name}: a PIL image of {error}; expected 8 or 16 bit, or float in [0, 1]") from None
    return _channels_first(array)


def _channels_first(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


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
    with replace_when_whole(path, durable=False, overwrite=overwrite) as temporary:
        Image.fromarray(data[:, :, 0] if data.shape[2] == 1 else data).save(temporary, format="PNG")


def encode_png(image: Tensor) -> bytes:
    """Return the bytes of a PNG of 8 or 16 bits.

    Args:
        image: (1, H, W) gray or (3, H, W) RGB, uint8 or uint16.
    """
    import cv2

    pixels = image.cpu().numpy().transpose(1, 2, 0)[..., ::-1]  # OpenCV's order is blue, green, red
    return bytes(cv2.imencode(".png", np.ascontiguousarray(pixels), [cv2.IMWRITE_PNG_COMPRESSION, 3])[1])
