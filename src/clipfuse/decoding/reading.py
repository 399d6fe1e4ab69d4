"""Image files, decoded by their own tags or refused by name."""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from clipfuse.decoding import tiff
from clipfuse.decoding.ranges import PERCENTILES
from clipfuse.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp")
# Of images too, and not read: they are counted where a folder is listed.
OTHER_SUFFIXES = (
    *(".gif", ".jpe", ".jp2", ".j2k", ".jxl", ".avif", ".heic", ".heif", ".ppm", ".pgm", ".pnm", ".pbm"),
    *(".exr", ".hdr", ".tga", ".dib", ".ico", ".psd", ".dng", ".raw", ".cr2", ".nef", ".arw", ".npy", ".mat"),
    *(".fits", ".seq", ".pcx", ".sgi"),
)
KINDS = "PNG, JPEG, BMP, TIFF or WebP"
MAX_PIXELS = 100_000_000  # a header can promise any size in a few bytes
_MAX_BYTES = 16 * MAX_PIXELS
_EXPECTED = f"expected a {KINDS} image"
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")


@dataclass(frozen=True)
class Header:
    """What a file states before its pixels: the upright size, how it is turned, its depth."""

    width: int
    height: int
    orientation: int
    bits: int


@dataclass(frozen=True)
class Stored:
    """The pixels of a file, upright.

    Attributes:
        values: (H, W) gray or (H, W, 3) RGB; integers or float32.
        white: the value of white by the file's tags, such as 255 or 4095; of floats 1; None where the tags
            leave it open.
        orientation: by which they were turned.
    """

    values: np.ndarray
    white: float | None
    orientation: int


def read_header(path: Path) -> Header:
    """Read what a file states; no pixel is decoded, but for the tags of a PNG that stand behind them.

    Raises:
        UserError: as `decode`, as far as the header shows it.
    """
    with _reported(path):
        if _is_tiff(path):
            tags = tiff.read_tags(path)
            width, height, orientation, bits = tags.width, tags.height, tags.orientation, tags.bits
            _check_size(width, height)
        else:
            with _opened(path) as image:
                (width, height), bits = image.size, 16 if _is_deep(image) else 8
                orientation = _orientation(Image.Image.getexif(image))  # not the PNG's own: it decodes pixels
    if orientation > 4:
        width, height = height, width
    return Header(width, height, orientation, bits)


def decode(path: Path) -> Stored:
    """Decode an image file; see the table in docs/images.md for what is read and how.

    Raises:
        UserError: it is missing, no image, damaged, of a kind that is not read right, or of more than
            `MAX_PIXELS`, by its header, before anything is decoded.
    """
    white: float | None
    with _reported(path):
        if _is_tiff(path):
            tags = tiff.read_tags(path)
            _check_size(tags.width, tags.height)
            (values, white), orientation = tiff.decode(path, tags), tags.orientation
        else:
            with _opened(path) as image:
                values, orientation = _pixels(path, image), _orientation(image.getexif())
            white = 65535 if values.dtype == np.uint16 else 255
        return Stored(_upright(values, orientation), white, orientation)


def deep_files(files: Sequence[Path]) -> list[Path]:
    """Return which of up to eight files, spread over the list, have more than 8 bits, by their headers.

    Raises:
        UserError: as `read_header`.
    """
    chosen = files[:: max(1, len(files) // 8)][:8]
    return [path for path in chosen if read_header(path).bits > 8]


def narrow_range(files: Sequence[Path], setting: str) -> str | None:
    """Return a warning where integer files of more than 8 bits use a quarter of their range or less.

    Args:
        files: of one band, more than 8 bits.
        setting: how a range is set, with places for the two values.

    Raises:
        UserError: as `decode`.
    """
    found = [
        [*np.percentile(stored.values, (0, *PERCENTILES, 100)), stored.white]
        for stored in map(decode, files)
        if stored.white and stored.white > 255
    ]
    if not found:
        return None
    least, low = (float(each) for each in np.min(found, axis=0)[:2])
    high, most, white = (float(each) for each in np.max(found, axis=0)[2:])
    if not 0 < high - low <= white / 4:
        return None
    bits = next((f" or bits:{bits}" for bits in (10, 12, 14) if most < 2**bits <= white), "")
    return (
        f"{files[0]} and its like ({len(found)} looked at) hold values {least:.0f} to {most:.0f}, most "
        f"{low:.0f} to {high:.0f}, {100 * (high - low) / white:.2g} % of 0 to {white:.0f}: they are "
        f"read as nearly flat; set {setting.format(f'{least:.0f}', f'{most:.0f}')}{bits}, alike for all "
        "files that are compared"
    )


def decode_small(path: Path, side: int) -> np.ndarray:
    """Return the luma of an image for a thumbnail, (H, W) float32; JPEG is decoded at a fraction of its size.

    Raises:
        UserError: as `decode`.
    """
    with _reported(path):
        if not _is_tiff(path):
            with _opened(path) as image:
                image.draft("L", (2 * side, 2 * side))
                if image.mode[0] != "I":
                    return np.array(image.convert("L"), dtype=np.float32)
    values = decode(path).values.astype(np.float32)
    return values if values.ndim == 2 else values @ np.array([0.299, 0.587, 0.114], np.float32)


def palette_numbers(path: Path) -> np.ndarray | None:
    """Return the numbers that an image stores where they are no levels of gray, (H, W) uint8; else None.

    They are those of an image with a palette, and of a gray PNG of 1, 2 or 4 bits, to which programs that
    make PNG files small reduce maps of few classes, and whose numbers Pillow stretches to 0..255.

    Raises:
        UserError: as `decode`.
    """
    with _reported(path), Image.open(path, formats=(*_FORMATS, "TIFF")) as image:
        _check_size(*image.size)
        if image.mode == "P":
            return np.array(image)
        if image.format != "PNG" or image.mode not in ("1", "L"):
            return None
        bits = {"1": 1, "L;2": 2, "L;4": 4}.get(str(image.tile[0].args) if image.tile else "")
        return np.array(image.convert("L")) // (255 // (2**bits - 1)) if bits else None


def four_channels(path: Path, pixels: bool = True) -> np.ndarray | None:
    """Return all channels of an image of four, of which `decode` drops the last as alpha, upright.

    Args:
        path: a PNG or WebP of red, green, blue and one more, 8 or 16 bit.
        pixels: whether to decode it; else only its header is read.

    Returns:
        (H, W, 4) uint8 or uint16; None without `pixels`.

    Raises:
        UserError: it has other channels, or as `decode`.
    """
    with _reported(path), _opened(path) as image:
        if image.mode != "RGBA":
            raise tiff.Unsupported(
                f"an image of {len(image.getbands())} channels ({image.mode}) as a pair in one file",
                "expected red, green, blue and infrared in one PNG",
            )
        if not pixels:
            return None
        if not _is_deep(image):
            return _upright(np.array(image), _orientation(image.getexif()))
        import cv2

        array = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
        if array is None or array.dtype != np.uint16 or array.ndim != 3 or array.shape[2] != 4:
            raise ValueError("it is damaged")
        return np.ascontiguousarray(array[:, :, [2, 1, 0, 3]])


def pil_pixels(image: Image.Image) -> np.ndarray:
    """Return the pixels of a PIL image as stored: uint8, uint16 or float32, (H, W) or (H, W, 3).

    Raises:
        ValueError: it holds 32-bit or signed integers.
    """
    if image.mode == "F":
        return np.array(image, dtype=np.float32)
    if image.mode.startswith("I;16"):
        return np.array(image).astype(np.uint16)
    if image.mode == "I":
        raise ValueError("32-bit or signed integers")
    if image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    return np.array(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))


def _is_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in tiff.SIGNATURES


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{width * height}")
    if width < 1 or height < 1:
        raise ValueError("it has no pixels")


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Give an image of which only the header is read."""
    with Image.open(path, formats=_FORMATS) as image:
        _check_size(*image.size)
        if (frames := getattr(image, "n_frames", 1)) > 1 and image.format in ("PNG", "WEBP"):
            raise tiff.Unsupported(
                f"an animated {image.format} of {frames} frames",
                "store each frame as a file of its own",
            )
        if image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
            raise tiff.Unsupported("JPEG in CMYK without the Adobe marker", "convert it to RGB")
        yield image


def _orientation(tags: Image.Exif) -> int:
    value = tags.get(ExifTags.Base.Orientation, 1)
    return value if value in range(1, 9) else 1


def _is_deep(image: ImageFile.ImageFile) -> bool:
    # Pillow cuts 16-bit colour to 8 bits without a warning; its raw modes show the depth.
    return image.format == "PNG" and ";16" in str([each.args for each in image.tile])


def _pixels(path: Path, image: ImageFile.ImageFile) -> np.ndarray:
    deep = _is_deep(image)
    if not deep or image.mode[0] == "I":
        return pil_pixels(image)
    gray = "LA;16" in str(image.tile)
    import cv2  # here: most files need it not, and it takes long to import

    array = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16 or array.ndim != 3 or array.shape[2] not in (3, 4):
        raise ValueError("it is damaged")
    return array[:, :, 0] if gray else array[:, :, 2::-1]


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Return stored pixels as they are to be seen, by the EXIF orientation 1 to 8."""
    if orientation > 4:  # stored by columns
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return np.ascontiguousarray(values)


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Report every error as one of the file."""
    size = 0
    try:
        if not path.is_file() and path.exists() and not path.is_dir():
            raise ValueError("it is no regular file")
        if (size := path.stat().st_size) > _MAX_BYTES:
            raise ValueError(f"a file of {size} bytes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except tiff.Unsupported as error:
        raise UserError(f"{path}: {error.what} is not read; {error.remedy}") from None
    except Image.DecompressionBombError as error:
        stated = re.findall(r"[0-9]+", str(error))[0]
        raise UserError(
            f"{path}: its header states {stated} pixels; {_EXPECTED} of at most {MAX_PIXELS // 10**6} "
            "megapixels; cut it into tiles"
        ) from None
    except UserError:
        raise
    except Exception as error:  # on damaged files the decoders raise errors of many kinds
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "not an image of these kinds" if size else "empty file"
        raise UserError(
            f"{path}: cannot be read ({reason}); {_EXPECTED}; check the path, or copy or convert it again"
        ) from None
