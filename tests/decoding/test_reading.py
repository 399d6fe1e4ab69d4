"""Each row of the table in docs/images.md, with files of two writers."""

import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from clipfuse.decoding.reading import SUFFIXES, decode, read_header

DOCS = Path(__file__).parents[2] / "docs/images.md"
H, W = 21, 37
generator = np.random.default_rng(0)
GRAY = generator.integers(0, 256, (H, W), dtype=np.uint8)
RGB = generator.integers(0, 256, (H, W, 3), dtype=np.uint8)
GRAY16 = generator.integers(0, 65536, (H, W), dtype=np.uint16)
RGB16 = generator.integers(0, 65536, (H, W, 3), dtype=np.uint16)
UNIT = generator.random((H, W), dtype=np.float32)
SIGNED = generator.integers(-3000, 3000, (H, W)).astype(np.int16)
FEW = generator.integers(0, 16, (H, W), dtype=np.uint8)
RAMP = np.dstack(np.meshgrid(np.arange(W) * 6, np.arange(H) * 9)).astype(np.uint8)
RAMP = np.dstack([RAMP, RAMP[..., :1] // 2])
ALPHA = np.repeat(np.where(np.arange(W) < 9, 0, 200).astype(np.uint8)[None], H, axis=0)
RGBA, RGBA16 = np.dstack([RGB, ALPHA]), np.dstack([RGB16, ALPHA.astype(np.uint16) * 257])
OPAQUE = np.dstack([RGB, np.full_like(ALPHA, 255)])
CMYK = np.dstack([RGB, ALPHA])
NAIVE = np.array(Image.fromarray(CMYK, "CMYK").convert("RGB"))
TURNED = 274

Content = Callable[[], bytes]


@dataclass
class Case:
    """One file: what it holds, or words of its refusal; `close` is the error allowed to lossy compression."""

    row: str
    writer: str
    suffix: str
    content: Content
    values: np.ndarray | None = None
    white: float | None = 255
    words: str = ""
    close: float = 0


def pillow(image: Any, form: str, **options: Any) -> Content:
    def write() -> bytes:
        stream = BytesIO()
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, form, **options)
        return stream.getvalue()

    return write


def opencv(array: np.ndarray, suffix: str, *options: int) -> Content:
    swapped = array if array.ndim == 2 else array[..., [2, 1, 0, *range(3, array.shape[2])]]
    return lambda: cv2.imencode(suffix, swapped, options)[1].tobytes()


def tiff(array: np.ndarray, **options: Any) -> Content:
    def write() -> bytes:
        stream = BytesIO()
        rgb = {"photometric": "rgb"} if array.ndim == 3 else {}
        tifffile.imwrite(stream, array, **(rgb | options))
        return stream.getvalue()

    return write


def by_hand(array: np.ndarray, order: str = "<", tags: dict[int, int] | None = None) -> Content:
    """Return a TIFF of one uncompressed strip; `tags` by their numbers, in place of the obvious ones."""
    samples = array.shape[2] if array.ndim == 3 else 1
    bits = (tags or {}).get(258, 8 * array.itemsize)
    data = array.astype(array.dtype.newbyteorder(order)).tobytes()
    if bits % 8:
        each = array.reshape(H, -1)[..., None] >> np.arange(bits)[::-1] & 1
        data = np.packbits(each.reshape(H, -1).astype(np.uint8), axis=1).tobytes()
    known = {256: W, 257: H, 258: bits, 259: 1, 262: 2 if samples > 2 else 1, 273: 8, 277: samples}
    known |= {278: H, 279: len(data)} | (tags or {})
    data += bytes(len(data) % 2)
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in sorted(known.items()))
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(data))
    return lambda: head + data + struct.pack(f"{order}H", len(known)) + entries + bytes(4)


def png(array: np.ndarray, bits: int = 0, color: int = 0, **chunks: bytes) -> Content:
    """Return a PNG of our own; `bits` and `color` by the standard, chunks that stand before the pixels."""
    bits = bits or 8 * array.itemsize
    each = array.reshape(H, -1)[..., None] >> np.arange(bits)[::-1] & 1
    rows = np.packbits(each.reshape(H, -1).astype(np.uint8), axis=1)
    chunks = {"IHDR": struct.pack(">IIBBBBB", W, H, bits, color, 0, 0, 0), **chunks}
    chunks |= {"IDAT": zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)), "IEND": b""}
    parts = [(name.encode() + data) for name, data in chunks.items()]
    body = b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts
    )
    return lambda: b"\x89PNG\r\n\x1a\n" + body


def inserted(content: Content, marker: bytes) -> Content:
    """Return a JPEG with a segment put in behind its first two bytes."""
    return lambda: content()[:2] + marker[:2] + struct.pack(">H", len(marker)) + marker[2:] + content()[2:]


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[TURNED] = orientation
    return tags.tobytes()


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    image = Image.fromarray(array)
    image.getexif()[TURNED] = orientation
    return np.array(ImageOps.exif_transpose(image))


def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def cases() -> Iterator[Case]:
    lossless_webp = (cv2.IMWRITE_WEBP_QUALITY, 101)
    row = "8 bits, gray"
    for form, suffix in (("PNG", "png"), ("BMP", "bmp"), ("TIFF", "tif")):
        yield Case(row, "pillow", suffix, pillow(GRAY, form), GRAY)
        yield Case(row, "opencv", suffix, opencv(GRAY, f".{suffix}"), GRAY)
    flat = RAMP[..., 0]
    yield Case(row, "pillow", "jfif", pillow(flat, "JPEG", quality=95), flat, close=4)
    yield Case(row, "opencv", "jpg", opencv(flat, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1), flat, close=4)

    row = "8 bits, RGB"
    for form, suffix in (("PNG", "png"), ("BMP", "bmp"), ("TIFF", "tiff")):
        yield Case(row, "pillow", suffix, pillow(RGB, form), RGB)
        yield Case(row, "opencv", suffix, opencv(RGB, f".{suffix}"), RGB)
    yield Case(row, "pillow", "webp", pillow(RGB, "WEBP", lossless=True), RGB)
    yield Case(row, "opencv", "webp", opencv(RGB, ".webp", *lossless_webp), RGB)
    yield Case(row, "opencv", "webp", opencv(RAMP, ".webp", cv2.IMWRITE_WEBP_QUALITY, 95), RAMP, close=24)
    yield Case(row, "pillow", "jpg", pillow(RAMP, "JPEG", quality=98, subsampling=0), RAMP, close=6)
    yield Case(row, "opencv", "jpeg", opencv(RAMP, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 98), RAMP, close=24)
    rgb_jpeg = imagecodecs.jpeg8_encode(RAMP, level=98, colorspace="RGB", outcolorspace="RGB")
    yield Case(row, "imagecodecs", "jpg", lambda: rgb_jpeg, RAMP, close=6)

    row = "1, 2 and 4 bits"
    for bits in (1, 2, 4):
        few = FEW % 2**bits
        white = few * np.uint8(255 // (2**bits - 1))
        yield Case(row, "by hand", "png", png(few, bits), white)
        yield Case(row, "by hand", "tif", by_hand(few, tags={258: bits}), white)
        yield Case(row, "by hand", "tif", by_hand(few, ">", tags={258: bits}), white)
        if bits > 1:
            yield Case(row, "tifffile", "tif", tiff(few, bitspersample=bits), white)
    one = Image.fromarray(FEW % 2 > 0)
    for form in ("PNG", "BMP", "TIFF"):
        yield Case(row, "pillow", form.lower(), pillow(one, form), FEW % 2 * 255)
    yield Case(row, "pillow", "tiff", pillow(one, "TIFF", compression="group4"), FEW % 2 * 255)
    yield Case(row, "opencv", "png", opencv(FEW % 2 * 255, ".png", cv2.IMWRITE_PNG_BILEVEL, 1), FEW % 2 * 255)

    row = "16 bits, gray"
    for suffix, form in (("png", "PNG"), ("tif", "TIFF")):
        yield Case(row, "pillow", suffix, pillow(GRAY16, form), GRAY16, 65535)
        yield Case(row, "opencv", suffix, opencv(GRAY16, f".{suffix}"), GRAY16, 65535)
    row = "16 bits, RGB"
    yield Case(row, "opencv", "png", opencv(RGB16, ".png"), RGB16, 65535)
    yield Case(row, "imagecodecs", "png", lambda: imagecodecs.png_encode(RGB16), RGB16, 65535)
    yield Case(row, "opencv", "tif", opencv(RGB16, ".tif"), RGB16, 65535)
    yield Case(row, "tifffile", "tif", tiff(RGB16), RGB16, 65535)

    row = "10, 12 and 14 bits"
    for bits in (10, 12, 14):
        gray, color = GRAY16 >> (16 - bits), RGB16 >> (16 - bits)
        white = 2**bits - 1
        yield Case(row, "tifffile", "tif", tiff(gray, bitspersample=bits), gray, white)
        yield Case(row, "tifffile", "tif", tiff(color, bitspersample=bits), color, white)
        for order in "<>":
            yield Case(row, "by hand", "tif", by_hand(gray, order, {258: bits}), gray, white)
            yield Case(row, "by hand", "tif", by_hand(color, order, {258: bits}), color, white)

    row = "float"
    yield Case(row, "pillow", "tif", pillow(UNIT, "TIFF"), UNIT, 1)
    yield Case(row, "opencv", "tif", opencv(np.dstack([UNIT] * 3), ".tif"), np.dstack([UNIT] * 3), 1)
    for size in "248":
        stored = UNIT.astype(f"f{size}")
        yield Case(row, "tifffile", "tif", tiff(stored), stored.astype(np.float32), 1)
    row = "signed integers"
    for kind in ("i1", "i2", "i4"):
        stored = (SIGNED // 100).astype(kind)
        yield Case(row, "tifffile", "tif", tiff(stored, byteorder=">"), stored, None)
        yield Case(row, "by hand", "tif", by_hand(stored, tags={339: 2}), stored, None)
    row = "32-bit integers"
    large = GRAY16.astype(np.uint32) * 70000
    yield Case(row, "tifffile", "tif", tiff(large), large, None)
    yield Case(row, "by hand", "tif", by_hand(large, ">"), large, None)
    yield Case(row, "opencv", "tif", opencv(large.astype(np.int32), ".tif"), large.astype(np.int32), None)

    row = "white is 0 (MinIsWhite)"
    for array, white in ((GRAY, 255), (GRAY16, 65535)):
        inverse = (white - array).astype(array.dtype)
        yield Case(row, "tifffile", "tif", tiff(array, photometric="miniswhite"), inverse, white)
        yield Case(row, "by hand", "tif", by_hand(array, ">", {262: 0}), inverse, white)
    yield Case(row, "pillow", "tif", pillow(Image.fromarray(GRAY), "TIFF", tiffinfo={262: 0}), GRAY)

    row = "plane by plane"
    for array, white in ((RGB, 255), (RGB16, 65535), (np.dstack([UNIT] * 3), 1), (RGBA16, 65535)):
        planes = np.ascontiguousarray(array.transpose(2, 0, 1))
        for more in (
            {},
            {"compression": "lzw"},
            {"compression": "zlib", "predictor": True, "tile": (16, 16)},
        ):
            content = tiff(planes, planarconfig="separate", **more)
            yield Case(row, "tifffile", "tif", content, array[..., :3], white)
    flat = np.ascontiguousarray(RGB16.transpose(2, 0, 1)).reshape(H, W, 3)
    # One strip of one row each: all of the first plane, then the second, then the third.
    tags = {284: 2, 278: H}
    yield Case(row, "by hand", "tif", planes_by_hand(flat, tags), RGB16, 65535)

    row = "tiles"
    for array, white in ((GRAY, 255), (RGB16, 65535)):
        yield Case(row, "tifffile", "tif", tiff(array, tile=(16, 32)), array, white)
        yield Case(row, "by hand", "tif", tiles_by_hand(array), array, white)
    row = "big-endian"
    for array, white in ((GRAY16, 65535), (RGB16, 65535)):
        yield Case(row, "tifffile", "tif", tiff(array, byteorder=">", compression="lzw"), array, white)
        yield Case(row, "by hand", "tif", by_hand(array, ">"), array, white)
    row = "BigTIFF"
    yield Case(row, "tifffile", "tif", tiff(RGB16, bigtiff=True), RGB16, 65535)
    yield Case(row, "pillow", "tif", pillow(GRAY, "TIFF", big_tiff=True), GRAY)

    row = "LZW, Deflate, PackBits, LZMA, Zstandard"
    for kind, name in (("lzw", "tiff_lzw"), ("zlib", "tiff_deflate"), ("packbits", "packbits")):
        yield Case(row, "tifffile", "tif", tiff(GRAY16, compression=kind), GRAY16, 65535)
        yield Case(row, "pillow", "tif", pillow(GRAY16, "TIFF", compression=name), GRAY16, 65535)
    for kind, name in (("lzma", "lzma"), ("zstd", "zstd")):
        yield Case(row, "tifffile", "tif", tiff(RGB16, compression=kind, predictor=True), RGB16, 65535)
        yield Case(row, "pillow", "tif", pillow(RGB, "TIFF", compression=name), RGB)
    yield Case(row, "tifffile", "tif", tiff(UNIT, compression="zlib", predictor=True), UNIT, 1)
    yield Case(row, "opencv", "tif", opencv(RGB16, ".tif", cv2.IMWRITE_TIFF_COMPRESSION, 5), RGB16, 65535)
    yield Case(row, "tifffile", "tif", tiff(RAMP, compression="webp"), words="Compression 50001 (WebP)")
    yield Case(row, "by hand", "tif", by_hand(GRAY, tags={259: 34887}), words="Compression 34887 (LERC)")

    row = "JPEG in TIFF"
    for array in (RAMP, RAMP[..., 0]):
        content = tiff(array, compression="jpeg", compressionargs={"level": 98})
        yield Case(row, "tifffile", "tif", content, array, close=12)
        yield Case(
            row, "pillow", "tif", pillow(array, "TIFF", compression="jpeg", quality=98), array, close=12
        )

    as_rgb = {"level": 98, "colorspace": "RGB", "outcolorspace": "RGB"}
    content = tiff(RAMP, compression="jpeg", compressionargs=as_rgb)
    yield Case(row, "tifffile", "tif", content, RAMP, close=6)

    row = "palette"
    palette = Image.fromarray(RGB).quantize(8)
    colors = np.array(palette.convert("RGB"))
    for form in ("PNG", "BMP", "TIFF"):
        yield Case(row, "pillow", form.lower(), pillow(palette, form), colors)
    yield Case(row, "pillow", "png", pillow(palette, "PNG", transparency=3), colors)
    table = generator.integers(0, 256, (16, 3), dtype=np.uint8)
    yield Case(row, "by hand", "png", png(FEW, 4, 3, PLTE=table.tobytes(), tRNS=bytes(9)), table[FEW])
    whole = generator.integers(0, 256, (256, 3), dtype=np.uint8)
    content = tiff(GRAY, photometric="palette", colormap=whole.T.astype(np.uint16) * 257, compression="lzw")
    yield Case(row, "tifffile", "tif", content, whole[GRAY])
    content = tiff(GRAY, photometric="palette", colormap=whole.T.astype(np.uint16))
    yield Case(row, "tifffile", "tif", content, words="ColorMap of 768 values up to 255")

    row = "straight alpha"
    for form, more in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        yield Case(row, "pillow", form.lower(), pillow(RGBA, form, **more), RGB)
    yield Case(row, "opencv", "png", opencv(RGBA, ".png"), RGB)
    yield Case(row, "opencv", "png", opencv(RGBA16, ".png"), RGB16, 65535)
    yield Case(row, "by hand", "png", png(RGBA16[..., 2:], 16, 4), RGB16[..., 2], 65535)
    yield Case(row, "pillow", "png", pillow(RGBA[..., 2:], "PNG"), RGB[..., 2])
    yield Case(row, "opencv", "bmp", opencv(RGBA, ".bmp"), RGB)
    yield Case(row, "tifffile", "tif", tiff(RGBA16, extrasamples=["unassalpha"]), RGB16, 65535)
    yield Case(row, "by hand", "tif", by_hand(RGBA[..., 2:], tags={338: 2}), RGB[..., 2])

    row = "premultiplied alpha"
    words = "ExtraSamples 1 (premultiplied alpha)"
    yield Case(row, "tifffile", "tif", tiff(RGBA, extrasamples=["assocalpha"]), words=words)
    yield Case(row, "by hand", "tif", by_hand(RGBA16, tags={338: 1}), words=words)
    yield Case(row, "tifffile", "tif", tiff(OPAQUE, extrasamples=["assocalpha"]), RGB)

    row = "CMYK"
    yield Case(row, "pillow", "tif", pillow(Image.fromarray(CMYK, "CMYK"), "TIFF"), NAIVE)
    yield Case(row, "tifffile", "tif", tiff(CMYK, photometric="separated"), NAIVE)
    ink = np.dstack([RAMP, RAMP[..., 1]])
    naive = np.array(Image.fromarray(ink, "CMYK").convert("RGB"))
    yield Case(row, "pillow", "jpg", pillow(Image.fromarray(ink, "CMYK"), "JPEG", quality=98), naive, close=6)
    plain = imagecodecs.jpeg8_encode(ink, level=98, colorspace="CMYK", outcolorspace="CMYK")
    adobe = b"\xff\xee" + b"Adobe\0\x64\0\0\0\0\0"
    unmarked = re.sub(rb"\xff\xee\0\x0eAdobe.{7}", b"", plain, flags=re.DOTALL)
    inverse = imagecodecs.jpeg8_encode(255 - ink, level=98, colorspace="CMYK", outcolorspace="CMYK")
    inverse = re.sub(rb"\xff\xee\0\x0eAdobe.{7}", b"", inverse, flags=re.DOTALL)
    yield Case(row, "imagecodecs", "jpg", inserted(lambda: inverse, adobe), naive, close=6)
    yield Case(row, "imagecodecs", "jpg", lambda: unmarked, words="CMYK without the Adobe marker")
    content = tiff(RGBA16, photometric="separated")
    yield Case(
        row, "tifffile", "tif", content, words="PhotometricInterpretation 5 (CMYK) and BitsPerSample 16"
    )

    row = "YCbCr in TIFF, not as JPEG"
    words = "PhotometricInterpretation 6 (YCbCr)"
    yield Case(row, "pillow", "tif", pillow(Image.fromarray(RGB).convert("YCbCr"), "TIFF"), words=words)
    yield Case(row, "by hand", "tif", by_hand(RGB, tags={262: 6}), words=words)
    row = "CIELab"
    words = "PhotometricInterpretation 8 (CIELab)"
    yield Case(row, "pillow", "tif", pillow(Image.fromarray(RGB, "LAB"), "TIFF"), words=words)
    yield Case(row, "tifffile", "tif", tiff(RGB, photometric="cielab"), words=words)

    row = "orientation"
    for way in range(1, 9):
        upright = turned(RGB, way)
        yield Case(row, "pillow", "png", pillow(RGB, "PNG", exif=exif(way)), upright)
        yield Case(row, "by hand", "png", png(RGB, 8, 2, eXIf=exif(way).removeprefix(b"Exif\0\0")), upright)
        yield Case(row, "pillow", "webp", pillow(RGB, "WEBP", lossless=True, exif=exif(way)), upright)
        yield Case(
            row,
            "pillow",
            "jpg",
            pillow(RAMP, "JPEG", quality=98, exif=exif(way)),
            turned(RAMP, way),
            close=24,
        )
        content = inserted(opencv(RAMP, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 98), b"\xff\xe1" + exif(way))
        yield Case(row, "opencv", "jpg", content, turned(RAMP, way), close=24)
        yield Case(row, "pillow", "tif", pillow(RGB, "TIFF", tiffinfo={TURNED: way}), upright)
        more = {"extratags": [(TURNED, "H", 1, way, True)], "compression": "lzw"}
        yield Case(row, "tifffile", "tif", tiff(GRAY16, **more), turned(GRAY16, way), 65535)
    yield Case(
        *(row, "tifffile", "tif", tiff(RAMP, compression="jpeg", extratags=[(TURNED, "H", 1, 6, True)])),
        words="Compression 7 (JPEG) and Orientation 6",
    )

    row = "several pages or frames"
    second = [Image.fromarray(255 - RGB)]
    for form in ("PNG", "WEBP", "TIFF"):
        words = "several pages" if form == "TIFF" else f"an animated {form} of 2 frames"
        content = pillow(RGB, form, save_all=True, append_images=second)
        yield Case(row, "pillow", form.lower(), content, words=words)
    yield Case(
        row, "tifffile", "tif", tiff(np.stack([GRAY16] * 3), photometric="minisblack"), words="several pages"
    )

    row = "thumbnail beside the image"
    yield Case(row, "tifffile", "tif", reduced, GRAY16, 65535)
    content = pillow(RAMP, "MPO", save_all=True, append_images=[Image.fromarray(RAMP[::4, ::4])], quality=98)
    yield Case(row, "pillow", "jpg", content, RAMP, close=24)

    row = "gamma, colour profile, significant bits"
    for form, more in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        yield Case(row, "pillow", form.lower(), pillow(RGB, form, icc_profile=profile(), **more), RGB)
    yield Case(row, "pillow", "jpg", pillow(RAMP, "JPEG", quality=98, icc_profile=profile()), RAMP, close=24)
    chunks = {"gAMA": struct.pack(">I", 100000), "sBIT": b"\x0c"}
    yield Case(row, "by hand", "png", png(GRAY16, 16, 0, **chunks), GRAY16, 65535)
    yield Case(row, "by hand", "png", png(RGB16, 16, 2, **(chunks | {"sBIT": b"\x0c" * 3})), RGB16, 65535)


def planes_by_hand(flat: np.ndarray, tags: dict[int, int]) -> Content:
    """Return a planar TIFF of three strips."""
    data = flat.tobytes()
    content = by_hand(flat, tags=tags)()
    place, size = len(content), len(data) // 3
    lists = struct.pack("<6I", *(8 + size * plane for plane in range(3)), *[size] * 3)
    for tag, at in ((273, place), (279, place + 12)):
        entry = struct.pack("<HHI", tag, 4, 1)
        content = re.sub(
            re.escape(entry) + b".{4}", struct.pack("<HHII", tag, 4, 3, at), content, flags=re.DOTALL
        )
    return lambda: content + lists


def tiles_by_hand(array: np.ndarray) -> Content:
    """Return a TIFF of one tile that is larger than the image."""
    padded = np.zeros((32, 48, *array.shape[2:]), array.dtype)
    padded[:H, :W] = array
    content = by_hand(padded, tags={322: 48, 323: 32, 324: 8, 325: padded.nbytes})()
    return lambda: content


def reduced() -> bytes:
    stream = BytesIO()
    with tifffile.TiffWriter(stream) as file:
        file.write(GRAY16)
        file.write(GRAY16[::2, ::2], subfiletype=1)
    return stream.getvalue()


CASES = list(cases())


@pytest.mark.parametrize("case", CASES, ids=[f"{case.row}-{case.writer}-{case.suffix}" for case in CASES])
def test_a_kind_of_file(case, tmp_path, user_error):
    path = tmp_path / f"a.{case.suffix}"
    path.write_bytes(case.content())
    if case.values is None:
        message = user_error(decode, path)
        assert str(path) in message
        assert case.words in message
        assert "; store " in message or "; convert " in message
        return
    stored = decode(path)
    assert stored.values.shape == case.values.shape
    assert stored.values.dtype == case.values.dtype
    assert stored.white == case.white
    difference = np.abs(stored.values.astype(np.float64) - case.values.astype(np.float64))
    assert difference.max() <= case.close
    header = read_header(path)
    assert (header.height, header.width) == stored.values.shape[:2]
    assert header.orientation == stored.orientation
    assert (header.bits > 8) == (case.white != 255 and stored.values.dtype.itemsize > 1)


def test_the_rows_of_the_documents_are_the_cases():
    rows = re.findall(r"^\| (.+?) \|(.+)\|$", DOCS.read_text(), re.MULTILINE)[1:]
    cells = {name: [cell.strip() for cell in rest.split("|")] for name, rest in rows if set(name) != {"-"}}
    found = defaultdict(set)
    writers = defaultdict(set)
    kinds = {"png": 0, "jpg": 1, "jpeg": 1, "jfif": 1, "bmp": 2, "tif": 3, "tiff": 3, "webp": 4}
    for case in CASES:
        writers[case.row].add(case.writer)
        found[case.row].add(kinds[case.suffix])
    assert list(cells) == list(dict.fromkeys(case.row for case in CASES))
    assert {row for row, names in writers.items() if len(names) < 2} == set()
    assert {
        row: {place for place, cell in enumerate(each[:5]) if cell} for row, each in cells.items()
    } == found
    assert {f".{suffix}" for suffix in kinds} == set(SUFFIXES)
