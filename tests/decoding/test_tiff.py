"""Every way in which tifffile can store numbers, against what it stored; and files made to harm."""

import re
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
import tifffile
from PIL import Image

from clipfuse.decoding import tiff
from clipfuse.decoding.reading import decode, read_header
from clipfuse.errors import UserError

H, W = 23, 41
KINDS = ("u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8")
WHITE = {"u1": 255, "u2": 65535, "f2": 1, "f4": 1, "f8": 1}


def numbers(kind: str, channels: int) -> np.ndarray:
    shape = (H, W) if channels == 1 else (H, W, channels)
    generator = np.random.default_rng(0)
    if kind[0] == "f":
        return generator.random(shape).astype(kind)
    limits = np.iinfo(kind)
    return generator.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd", "packbits", "lzma"])
@pytest.mark.parametrize("order", "<>")
def test_every_number_type_compression_and_arrangement(tmp_path, order, compression, user_error):
    path = tmp_path / "a.tif"
    layouts = [(1, None), (3, "contig"), (3, "separate"), (4, "contig"), (4, "separate")]
    count = 0
    for kind in KINDS:
        for channels, planar in layouts:
            array = numbers(kind, channels)
            stored = array.transpose(2, 0, 1) if planar == "separate" else array
            color = {"photometric": "rgb", "planarconfig": planar} if planar else {}
            for predictor in (False, True)[: 1 if compression in (None, "packbits") else 2]:
                for place in ({"tile": (16, 32)}, {"rowsperstrip": 5}, {"rowsperstrip": H, "bigtiff": True}):
                    tifffile.imwrite(
                        path,
                        np.ascontiguousarray(stored),
                        **(
                            place | color | {"extrasamples": ["unassalpha"]}
                            if channels == 4
                            else place | color
                        ),
                        byteorder=order,
                        compression=compression,
                        predictor=predictor,
                    )
                    if order == ">" and "bigtiff" in place:
                        assert "a big-endian BigTIFF is not read" in user_error(decode, path)
                        continue
                    result = decode(path)
                    expected = array if channels == 1 else array[..., :3]
                    expected = expected.astype(np.float32) if kind[0] == "f" else expected
                    assert np.array_equal(result.values, expected), (kind, channels, planar, predictor, place)
                    assert result.values.dtype == expected.dtype
                    assert result.white == WHITE.get(kind)
                    count += 1
    assert count == len(KINDS) * len(layouts) * (3 if order == "<" else 2) * (
        1 if compression in (None, "packbits") else 2
    )


@pytest.mark.parametrize("bits", [3, 5, 6, 7, 9, 11, 13, 15])
def test_odd_depths(tmp_path, bits):
    array = numbers("u2", 1) >> (16 - bits)
    array = array.astype(np.uint8) if bits < 8 else array
    tifffile.imwrite(tmp_path / "a.tif", array, bitspersample=bits, rowsperstrip=4)
    result = decode(tmp_path / "a.tif")
    assert np.array_equal(result.values, array)
    assert result.white == 2**bits - 1


def test_large_images_are_decompressed_in_parts(tmp_path, monkeypatch):
    array = numbers("u2", 3)
    for place in ({"tile": (16, 16)}, {"rowsperstrip": 3}):
        tifffile.imwrite(tmp_path / "a.tif", array, compression="lzw", **place)
        monkeypatch.setattr(tiff, "_AT_ONCE", 6 * 48 * 16)
        assert np.array_equal(decode(tmp_path / "a.tif").values, array)


def test_a_strip_that_is_too_large_is_named(tmp_path, monkeypatch, user_error):
    monkeypatch.setattr(tiff, "_AT_ONCE", 1000)
    tifffile.imwrite(tmp_path / "a.tif", numbers("u2", 3), compression="lzw", rowsperstrip=H)
    assert "a strip or tile of 5658 bytes is not read; store it in smaller" in user_error(
        decode, tmp_path / "a.tif"
    )
    tifffile.imwrite(tmp_path / "a.tif", numbers("u2", 3), rowsperstrip=H)
    assert decode(tmp_path / "a.tif").values.shape == (H, W, 3)  # as it is stored, any size can be read


def entries(**tags: int) -> bytes:
    known = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 16, 279: 256}
    known |= {int(name[1:]): value for name, value in tags.items()}
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(known.items()))
    return struct.pack("<H", len(known)) + body


def file(data: bytes = bytes(256), link: int = 0, **tags: int) -> bytes:
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + entries(**tags) + struct.pack("<I", link)


ZEROS = zlib.compress(bytes(2**28), 9)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (file(t258=24), "BitsPerSample 24 (unsigned)"),
        (file(t258=64), "BitsPerSample 64 (unsigned)"),
        (file(t262=7), "PhotometricInterpretation 7"),
        (file(t262=32803), "PhotometricInterpretation 32803 (colour filter array)"),
        (file(t277=3), "PhotometricInterpretation 1 (MinIsBlack) and SamplesPerPixel 3"),
        (file(t259=6), "Compression 6 (old JPEG)"),
        (file(t259=34712), "Compression 34712 (JPEG 2000)"),
        (file(t259=12345), "Compression 12345"),
        (file(t259=5, t317=3), "Predictor 3"),
        (file(t317=2), "Predictor 2"),
        (file(t339=5), "SampleFormat 5 (complex numbers)"),
        (file(t339=3), "BitsPerSample 8 (float)"),
        (file(t266=2), "FillOrder 2"),
        (file(t262=0, t339=2), "no unsigned integers"),
        (file(data=bytes(100)), "longer than the file"),
        (file(t279=100), "truncated"),
        (file(t273=2**32 - 1), "truncated"),
        (file(t279=2**32 - 1), "longer than the file"),
        (file(t278=0), "no size"),
        (file(t259=8), "cannot be read"),
        (file(t256=2**31, t257=2**31), "at most 100 megapixels"),
        (file(t322=30_000, t323=30_000, t324=8, t325=256), "larger than the image"),
        (file(t257=10**8, t256=1, t278=1, t259=8), "missing"),
    ],
)
def test_tags_that_are_refused(tmp_path, limited_memory, content, words, user_error):
    (tmp_path / "a.tif").write_bytes(content)
    with limited_memory(200):
        assert words in user_error(decode, tmp_path / "a.tif")


def test_compression_cannot_fill_the_memory(tmp_path, limited_memory, user_error):
    content = file(ZEROS, t259=8, t279=len(ZEROS))
    (tmp_path / "a.tif").write_bytes(content)
    with limited_memory(100):
        values = decode(tmp_path / "a.tif").values  # the first 256 bytes of 2**28
    assert not values.any()
    assert values.shape == (16, 16)


def test_pages_in_a_circle_end(tmp_path):
    page = 8 + 256
    (tmp_path / "a.tif").write_bytes(file(link=page))
    assert decode(tmp_path / "a.tif").values.shape == (16, 16)


def test_a_colour_map_of_another_depth_and_missing_tags(tmp_path, user_error):
    stream = BytesIO()
    Image.fromarray(numbers("u1", 1)).save(stream, "TIFF")
    for tag in (256, 262, 273):
        content = re.sub(
            struct.pack("<H", tag) + b"..\1\0\0\0",
            struct.pack("<H", 65000) + b"\3\0\1\0\0\0",
            stream.getvalue(),
            flags=re.DOTALL,
        )
        (tmp_path / "a.tif").write_bytes(content)
        message = user_error(decode, tmp_path / "a.tif")
        assert "missing" in message


@pytest.mark.parametrize("kind", ["u1 tiles", "u2 lzw planes", "u2 12 bits", "f4 zlib", "palette"])
def test_spoiled_bytes_end_in_an_image_or_one_line(tmp_path, limited_memory, kind, user_error):
    path = tmp_path / "a.tif"
    array, color = numbers(kind[:2] if kind[0] in "uf" else "u1", 1), numbers("u2", 3)
    options = {
        "u1 tiles": {"tile": (16, 16)},
        "u2 12 bits": {"bitspersample": 12},
        "f4 zlib": {"compression": "zlib", "predictor": True},
        "palette": {
            "photometric": "palette",
            "colormap": np.arange(768, dtype=np.uint16).reshape(3, 256) * 80,
        },
    }
    if kind == "u2 lzw planes":
        planes = np.ascontiguousarray(color.transpose(2, 0, 1))
        tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", compression="lzw")
    else:
        tifffile.imwrite(path, array >> 4 if "12" in kind else array, **options[kind])
    whole, generator = path.read_bytes(), np.random.default_rng(1)
    read, messages = 0, []
    with limited_memory(300):
        for _ in range(400):
            spoiled = bytearray(whole)
            for at in (len(spoiled) * generator.random(3) ** 4).astype(int):
                spoiled[at] = generator.choice([0, 255, 127, generator.integers(256)])
            path.write_bytes(spoiled[: generator.choice([len(spoiled), generator.integers(1, len(spoiled))])])
            try:
                stored = decode(path)
            except UserError as error:
                messages.append(str(error))
            else:
                assert read_header(path).height == stored.values.shape[0]
                read += 1
    assert all(str(path) in message and "\n" not in message for message in messages)
    assert read > 5
    assert len(messages) > 20
