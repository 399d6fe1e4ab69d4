"""TIFF files, read by their tags alone.

Pillow and OpenCV each read some kinds of TIFF wrongly without an error (12 bits, planes of 16 bits, white as
zero in 16 bits, turned images). Here their libtiff only decompresses; the tags are judged, and the samples
put together, in this module. What it cannot honour is refused by the tag and its value.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PHOTOMETRIC = {0: "MinIsWhite", 1: "MinIsBlack", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "CIELab"}
_PHOTOMETRIC |= {4: "mask", 32803: "colour filter array", 34892: "linear raw"}
_COMPRESSION = {2: "CCITT", 3: "CCITT", 4: "CCITT", 6: "old JPEG", 7: "JPEG", 34712: "JPEG 2000"}
_COMPRESSION |= {34887: "LERC", 50001: "WebP", 50002: "JPEG XL"}
_BY_BYTES = (1, 5, 8, 32773, 32946, 34925, 50000)  # none, LZW, Deflate, PackBits, Deflate, LZMA, Zstandard
_COLOR = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4}  # samples of a pixel, but for alpha
_MOST_PAGES = 1000
_AT_ONCE = 2**27  # bytes that are decompressed in one go


class Unsupported(Exception):
    """A kind of file that is not read: `what` it is, by its tag and value, and the `remedy`."""

    def __init__(self, what: str, remedy: str = "store it as 8 or 16 bit gray or RGB") -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy


@dataclass(frozen=True)
class Tags:
    """The tags of the first page that say what its bytes mean."""

    width: int
    height: int
    bits: int
    kind: str  # u, i or f
    samples: int
    photometric: int
    planes: bool  # one plane after the other
    compression: int
    predictor: int
    fill_order: int
    orientation: int
    premultiplied: bool
    color_map: tuple[int, ...]
    order: str  # < or >
    tiled: bool
    segment: tuple[int, int]  # width and height of a strip or tile
    offsets: tuple[int, ...]
    counts: tuple[int, ...]


def read_tags(path: Path) -> Tags:
    """Read the tags of a TIFF file's first page, and no pixel.

    Raises:
        Unsupported: further pages hold images of the same size, or tags contradict each other.
        Exception: of many kinds, where the file is damaged.
    """
    with path.open("rb") as file:
        head = file.read(8)
        if head[3:4] == b"+":
            raise Unsupported("a big-endian BigTIFF", "store it as little-endian")
        head += file.read(8) if head[2:3] == b"+" else b""
        page = ImageFileDirectory_v2(head)
        first = page.next
        file.seek(first)
        page.load(file)
        tags = _tags(page, "<" if head[:2] == b"II" else ">", path.stat().st_size)
        seen, place = {first}, page.next
        while place and place not in seen and len(seen) < _MOST_PAGES:
            seen.add(place)
            other = ImageFileDirectory_v2(head)
            file.seek(place)
            other.load(file)
            reduced = _one(other, 254, 0) & 5  # a smaller version of the image, or a mask
            if not reduced and (_one(other, 256), _one(other, 257)) == (tags.width, tags.height):
                raise Unsupported("a file of several pages", "store each page as a file of its own")
            place = other.next
    return tags


def _one(page: ImageFileDirectory_v2, tag: int, default: int | None = None) -> int:
    values = _many(page, tag)
    if not values and default is None:
        raise ValueError(f"tag {tag} is missing")
    return values[0] if values else int(default or 0)


def _many(page: ImageFileDirectory_v2, tag: int) -> tuple[int, ...]:
    value: Any = page.get(tag, ())
    return tuple(int(each) for each in value) if isinstance(value, tuple) else (int(value),)


def _tags(page: ImageFileDirectory_v2, order: str, file_bytes: int) -> Tags:
    samples, bits = _one(page, 277, 1), _many(page, 258) or (1,)
    formats = _many(page, 339) or (1,)
    if len({*bits[:samples]}) > 1 or len({*formats[:samples]}) > 1:
        raise Unsupported(f"TIFF with BitsPerSample {bits[:samples]} and SampleFormat {formats[:samples]}")
    if formats[0] not in (1, 2, 3, 4):
        raise Unsupported(f"TIFF with SampleFormat {formats[0]} (complex numbers)")
    width, height, tiled = _one(page, 256), _one(page, 257), 322 in page
    segment = (_one(page, 322), _one(page, 323)) if tiled else (width, min(_one(page, 278, height), height))
    offsets, counts = _many(page, 324 if tiled else 273), _many(page, 325 if tiled else 279)
    if not counts and len(offsets) == 1:
        counts = (file_bytes - offsets[0],)
    orientation = _one(page, 274, 1)
    return Tags(
        width=width,
        height=height,
        bits=bits[0],
        kind={2: "i", 3: "f"}.get(formats[0], "u"),
        samples=samples,
        photometric=_one(page, 262),
        planes=_one(page, 284, 1) == 2 and samples > 1,
        compression=_one(page, 259, 1),
        predictor=_one(page, 317, 1),
        fill_order=_one(page, 266, 1),
        orientation=orientation if orientation in range(1, 9) else 1,
        premultiplied=1 in _many(page, 338),
        color_map=_many(page, 320),
        order=order,
        tiled=tiled,
        segment=segment,
        offsets=offsets,
        counts=counts,
    )


def check(tags: Tags) -> None:
    """Require that a file can be read right.

    Raises:
        Unsupported: names the tag and its value.
    """
    color = f"PhotometricInterpretation {tags.photometric}" + _named(_PHOTOMETRIC, tags.photometric)
    packed = f"Compression {tags.compression}" + _named(_COMPRESSION, tags.compression)
    if tags.compression not in _BY_BYTES:
        whole = (tags.compression in (2, 3, 4) and tags.photometric in (0, 1) and tags.bits == 1) or (
            tags.compression == 7 and tags.photometric in (1, 2, 6) and tags.bits == 8
        )
        if not whole or tags.planes or tags.samples not in (1, 3) or tags.kind != "u":
            raise Unsupported(f"TIFF with {packed}, {color} and BitsPerSample {tags.bits}")
        if tags.orientation != 1:
            raise Unsupported(f"TIFF with {packed} and Orientation {tags.orientation}", "store it upright")
        return
    if tags.photometric not in _COLOR or (tags.photometric == 5 and (tags.bits, tags.kind) != (8, "u")):
        raise Unsupported(f"TIFF with {color} and BitsPerSample {tags.bits}")
    if tags.photometric == 0 and tags.kind != "u":
        raise Unsupported(f"TIFF with {color} and values that are no unsigned integers")
    if tags.samples not in (_COLOR[tags.photometric], _COLOR[tags.photometric] + 1):
        raise Unsupported(f"TIFF with {color} and SamplesPerPixel {tags.samples}")
    widths = {"u": (*range(1, 17), 32), "i": (8, 16, 32), "f": (16, 32, 64)}[tags.kind]
    if tags.bits not in widths:
        kind = {"u": "unsigned", "i": "signed", "f": "float"}[tags.kind]
        raise Unsupported(f"TIFF with BitsPerSample {tags.bits} ({kind})")
    if tags.fill_order != 1:
        raise Unsupported(f"TIFF with FillOrder {tags.fill_order}")
    right = {1: True, 2: tags.kind != "f" and tags.bits % 8 == 0, 3: tags.kind == "f"}
    if not right.get(tags.predictor) or (tags.predictor != 1 and tags.compression in (1, 32773)):
        raise Unsupported(f"TIFF with {packed} and Predictor {tags.predictor}")
    if tags.photometric == 3 and (
        len(tags.color_map) != 3 * 2**tags.bits or tags.bits > 8 or 0 < max(tags.color_map) < 256
    ):
        raise Unsupported(f"TIFF with a ColorMap of {len(tags.color_map)} values up to {max(tags.color_map)}")


def _named(names: dict[int, str], value: int) -> str:
    return f" ({names[value]})" if value in names else ""


def decode(path: Path, tags: Tags) -> tuple[np.ndarray, float | None]:
    """Return the pixels of the first page as stored, not yet upright.

    Returns:
        (H, W) gray or (H, W, 3) RGB, of integers or float32, and the value that is white; None where the
        tags leave it open (signed and 32-bit integers).

    Raises:
        Unsupported: see `check`; or the alpha is premultiplied, and not 1 everywhere.
        Exception: of many kinds, where the file is damaged.
    """
    check(tags)
    if tags.compression not in _BY_BYTES:
        with Image.open(path, formats=("TIFF",)) as image:
            return np.array(image.convert("L" if tags.samples == 1 else "RGB")), 255
    color = _COLOR[tags.photometric]
    pixels = _samples(path, tags)
    white = 2**tags.bits - 1
    if tags.premultiplied and tags.samples > color and not bool(np.all(pixels[..., color] == white)):
        raise Unsupported("TIFF with ExtraSamples 1 (premultiplied alpha)", "store it without alpha")
    pixels = pixels[..., 0] if color == 1 else pixels[..., :color]
    if tags.photometric == 3:
        table = np.array(tags.color_map, dtype=np.uint16).reshape(3, -1).T >> 8
        return table.astype(np.uint8)[pixels], 255
    if tags.photometric == 5:
        return np.array(Image.fromarray(np.ascontiguousarray(pixels), "CMYK").convert("RGB")), 255
    if tags.kind == "f":
        return pixels.astype(np.float32), 1
    if tags.kind == "i" or tags.bits > 16:
        return pixels, None
    if tags.photometric == 0:
        pixels = (white - pixels).astype(pixels.dtype)
    if tags.bits < 8 and 255 % white == 0:
        return (pixels * (255 // white)).astype(np.uint8), 255
    return pixels, white


def _samples(path: Path, tags: Tags) -> np.ndarray:
    """Return the samples of all pixels, (H, W, samples), in the byte order of this machine."""
    wide, high = tags.segment
    if min(wide, high) < 1:
        raise ValueError("its strips or tiles have no size")
    planes, inside = (tags.samples, 1) if tags.planes else (1, tags.samples)
    row = -(-wide * inside * tags.bits // 8)  # bytes of a segment's row
    across, down = -(-tags.width // wide), -(-tags.height // high)
    size, total = high * row, tags.height * -(-tags.width * tags.samples * tags.bits // 8)
    if planes * across * down * size > 4 * total + 2**26:
        raise ValueError(f"its tiles of {wide} x {high} pixels are larger than the image")
    if min(len(tags.offsets), len(tags.counts)) < planes * across * down:
        raise ValueError("some of its strips or tiles are missing")
    limit = _AT_ONCE if tags.bits % 8 == 0 else _AT_ONCE // 32
    at_once = max(1, limit // max(1, across * size))  # rows of segments
    dtype = np.dtype(f"{tags.kind}{max(1, tags.bits // 8 if tags.bits % 8 == 0 else 1 + tags.bits // 8)}")
    pixels = np.empty((tags.height, tags.width, tags.samples), dtype)
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        if sum(tags.counts[: planes * across * down]) > len(content):
            raise ValueError("its strips or tiles are longer than the file")
        for plane in range(planes):
            for first in range(0, down, at_once):
                last = min(first + at_once, down)
                places = range((plane * down + first) * across, (plane * down + last) * across)
                parts = [
                    content[tags.offsets[place] : tags.offsets[place] + tags.counts[place]]
                    for place in places
                ]
                top, bottom = first * high, min(last * high, tags.height)
                rows = (last - first) * high if tags.tiled else bottom - top
                stored = _bytes(parts, tags, row, across, rows).reshape(rows, across, row)
                block = _interpret(stored, tags, inside).reshape(rows, across * wide, inside)
                channels = slice(plane, plane + 1) if tags.planes else slice(None)
                pixels[top:bottom, :, channels] = block[: bottom - top, : tags.width]
    return pixels


def _bytes(parts: Sequence[bytes], tags: Tags, row: int, across: int, rows: int) -> np.ndarray:
    """Return decompressed strips or tiles side by side, (rows, across * row) uint8."""
    high = tags.segment[1]
    if tags.compression == 1:
        counts = [min(high, rows - high * (place // across)) * row for place in range(len(parts))]
        if any(len(part) < count for part, count in zip(parts, counts, strict=True)):
            raise ValueError("the file is truncated")
        flat = [
            np.frombuffer(part, np.uint8, count).reshape(-1, row)
            for part, count in zip(parts, counts, strict=True)
        ]
        lines = [np.hstack(flat[at : at + across]) for at in range(0, len(flat), across)]
        return np.vstack(lines)
    if across * row * rows > _AT_ONCE:
        raise Unsupported(
            f"TIFF with a strip or tile of {across * row * rows} bytes", "store it in smaller strips"
        )
    # A file of its own that holds them as bytes: libtiff then undoes the compression, and nothing else.
    entries = {256: [across * row], 257: [rows], 258: [8], 259: [tags.compression], 262: [1], 277: [1]}
    entries |= {322: [row], 323: [high]} if tags.tiled else {278: [high]}
    data = 8 + 2 + 12 * (len(entries) + 2) + 4 + 8 * len(parts)
    offsets = list(accumulate(map(len, parts[:-1]), initial=data))
    where, length = (324, 325) if tags.tiled else (273, 279)
    entries |= {where: offsets, length: [len(part) for part in parts]}
    head, values = struct.pack("<2sHIH", b"II", 42, 8, len(entries)), b""
    for tag, numbers in sorted(entries.items()):
        place = data - 8 * len(parts) + len(values)
        head += struct.pack("<HHII", tag, 4, len(numbers), numbers[0] if len(numbers) == 1 else place)
        values += struct.pack(f"<{len(numbers)}I", *numbers) if len(numbers) > 1 else b""
    values = values.ljust(8 * len(parts), b"\0")
    with Image.open(BytesIO(head + bytes(4) + values + b"".join(parts)), formats=("TIFF",)) as image:
        return np.array(image)


def _interpret(stored: np.ndarray, tags: Tags, inside: int) -> np.ndarray:
    """Turn the bytes of rows of segments, (..., bytes), into samples (..., pixels * inside)."""
    count = tags.segment[0] * inside
    if tags.bits % 8:
        bits = np.unpackbits(stored, axis=-1)[..., : count * tags.bits]
        bits = bits.reshape(*stored.shape[:-1], count, tags.bits)
        packed: np.ndarray = np.zeros(bits.shape[:-1], np.uint16)
        for place in range(tags.bits):
            packed = packed << 1 | bits[..., place]
        return packed
    size = tags.bits // 8
    if tags.predictor == 3:  # differences of bytes, the most significant bytes of all samples first
        steps = stored.reshape(*stored.shape[:-1], -1, inside).cumsum(axis=-2, dtype=np.uint8)
        planes = steps.reshape(*stored.shape[:-1], size, count)
        return np.ascontiguousarray(planes.swapaxes(-1, -2)).view(f">f{size}")[..., 0]
    values = np.ascontiguousarray(stored).view(f"{tags.order}{tags.kind}{size}")
    if tags.predictor == 2:
        steps = values.reshape(*values.shape[:-1], -1, inside)
        values = steps.cumsum(axis=-2, dtype=values.dtype.newbyteorder("=")).reshape(values.shape)
    return values
