import os
import struct
import zlib
from io import BytesIO

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from clipfuse.errors import UserError
from clipfuse.images import (
    SUFFIXES,
    check_name,
    check_sizes,
    gray,
    image_files,
    read_image,
    read_registered,
    write_png,
)
from clipfuse.ops.depth import from_unit, to_bytes, to_unit

generator = np.random.default_rng(0)
RGB8 = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
RGB16 = generator.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
FLOAT = generator.random((5, 7), dtype=np.float32)


def channels_first(array):
    return torch.from_numpy(array[None].copy() if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def images_in(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(RGB8).save(folder / name)
    return folder


# Reading


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "TIF", "PNG"])
@pytest.mark.parametrize("gray", [False, True])
def test_8_bit_values_are_kept(tmp_path, suffix, gray):
    array = RGB8[:, :, 0] if gray else RGB8
    Image.fromarray(array).save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.dtype == torch.uint8
    assert torch.equal(image, channels_first(array))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("kind", ["gray", "rgb", "rgba"])
def test_16_bit_values_are_kept(tmp_path, suffix, kind):
    stored = {
        "gray": RGB16[:, :, 0],
        "rgb": RGB16[:, :, ::-1],
        "rgba": np.dstack([RGB16[:, :, ::-1], RGB16[:, :, 0]]),
    }
    assert cv2.imwrite(str(tmp_path / f"a.{suffix}"), stored[kind])
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.dtype == torch.uint16
    assert torch.equal(image.int(), channels_first(RGB16[:, :, 0] if kind == "gray" else RGB16).int())


def test_big_endian_16_bit_tiff_is_kept(tmp_path):
    Image.frombytes("I;16B", (7, 5), RGB16[:, :, 0].astype(">u2").tobytes()).save(tmp_path / "a.tiff")
    assert torch.equal(read_image(tmp_path / "a.tiff").int(), channels_first(RGB16[:, :, 0]).int())


def test_jpeg_is_read_as_pillow_decodes_it(tmp_path):
    Image.fromarray(RGB8).save(tmp_path / "a.JPEG", format="JPEG")
    with Image.open(tmp_path / "a.JPEG") as decoded:
        assert torch.equal(read_image(tmp_path / "a.JPEG"), channels_first(np.array(decoded)))


def test_float_tiff_is_kept(tmp_path):
    Image.fromarray(FLOAT).save(tmp_path / "a.tiff")
    image = read_image(tmp_path / "a.tiff")
    assert image.dtype == torch.float32
    assert torch.equal(image, channels_first(FLOAT))
    assert torch.equal(to_unit(image), image)


def test_alpha_is_dropped_and_palette_and_bilevel_are_resolved(tmp_path):
    Image.fromarray(np.dstack([RGB8, RGB8[:, :, 0]])).save(tmp_path / "rgba.png")
    Image.fromarray(RGB8[:, :, :2], mode=None).save(tmp_path / "la.png")
    palette = Image.fromarray(RGB8).quantize(8)
    palette.save(tmp_path / "palette.png")
    Image.fromarray(RGB8[:, :, 0] > 127).save(tmp_path / "bilevel.png")
    assert torch.equal(read_image(tmp_path / "rgba.png"), channels_first(RGB8))
    assert torch.equal(read_image(tmp_path / "la.png"), channels_first(RGB8[:, :, 0]))
    assert torch.equal(read_image(tmp_path / "palette.png"), channels_first(np.array(palette.convert("RGB"))))
    expected = np.where(RGB8[:, :, 0] > 127, 255, 0).astype(np.uint8)
    assert torch.equal(read_image(tmp_path / "bilevel.png"), channels_first(expected))


def test_bmp_of_16_bits_per_pixel_is_an_8_bit_image(tmp_path):
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    header = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0)
    data = struct.pack("<HH", 0xF800, 0x001F)
    (tmp_path / "a.bmp").write_bytes(struct.pack("<2sIHHI", b"BM", 70, 0, 0, 66) + header + masks + data)
    image = read_image(tmp_path / "a.bmp")
    assert image.dtype == torch.uint8
    assert image[:, 0].T.tolist() == [[255, 0, 0], [0, 0, 255]]


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tiff"])
def test_truncated_file(tmp_path, suffix, user_error):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.tile(RGB8, (20, 20, 1))).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    message = user_error(read_image, path)
    assert str(path) in message
    assert "expected a PNG, JPEG, BMP, TIFF or WebP image" in message
    assert "again" in message


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_truncated_16_bit_colour(tmp_path, suffix, user_error):
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), np.tile(RGB16, (20, 20, 1)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 10])
    assert str(path) in user_error(read_image, path)


def test_what_is_no_image(tmp_path, user_error):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    reasons = {
        "text": "not an image",
        "empty": "empty file",
        "folder": "Is a directory",
        "missing": "No such file",
    }
    for stem, reason in reasons.items():
        message = user_error(read_image, tmp_path / f"{stem}.png")
        assert str(tmp_path / f"{stem}.png") in message
        assert reason in message
        assert "expected a PNG" in message


def test_32_bit_integers_are_refused(tmp_path, user_error):
    Image.fromarray(RGB16[:, :, 0].astype(np.int32)).save(tmp_path / "a.tiff")
    assert "32-bit" in user_error(read_image, tmp_path / "a.tiff")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_float_that_is_not_finite(tmp_path, bad, user_error):
    array = FLOAT.copy()
    array[1, 2:5] = bad
    Image.fromarray(array).save(tmp_path / "a.tiff")
    message = user_error(read_image, tmp_path / "a.tiff")
    assert str(tmp_path / "a.tiff") in message
    assert "3 of 35 pixels" in message


@pytest.mark.parametrize(("low", "high"), [(-0.5, 1), (0, 255)])
def test_float_outside_the_unit_range(tmp_path, low, high, user_error):
    array = FLOAT.copy()
    array[0, :2] = low, high
    Image.fromarray(array).save(tmp_path / "a.tiff")
    message = user_error(read_image, tmp_path / "a.tiff")
    assert f"{low:g} to {high:g}" in message
    assert f"data.range=[{low:g},{high:g}]" in message


def test_decompression_bomb(tmp_path, monkeypatch, user_error):
    Image.fromarray(RGB8).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    message = user_error(read_image, tmp_path / "a.png")
    assert "35 pixels" in message
    assert str(tmp_path / "a.png") in message


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, bits: int = 8, color: int = 0, data: bytes = b"", extra: bytes = b""
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54) + header


def tiff(width: int, height: int, tile: int = 0, bits: int = 8) -> bytes:
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 277: 1}
    tags |= {322: tile, 323: tile, 324: 8, 325: tile**2} if tile else {273: 8, 278: height, 279: 100}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items())]
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + b"".join(entries) + bytes(4)


def jpeg(width: int, height: int) -> bytes:
    stream = BytesIO()
    Image.fromarray(RGB8).save(stream, format="JPEG")
    content = bytearray(stream.getvalue())
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def webp(width: int, height: int) -> bytes:
    stream = BytesIO()
    Image.fromarray(RGB8).save(stream, format="WEBP", lossless=True)
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas + stream.getvalue()[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


ZEROS = zlib.compress(bytes(30_000 * 3_751), 9)  # the rows of 30,000 x 30,000 pixels of 1 bit
TEXT = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("header.png", png(100_000, 100_000), "at most 100 megapixels"),
        ("header16.png", png(100_000, 100_000, bits=16, color=2), "at most 100 megapixels"),
        ("longest.png", png(2**31 - 1, 2**31 - 1), "at most 100 megapixels"),
        ("just.png", png(10_001, 10_000), "states 100010000 pixels; expected a PNG"),
        ("header.bmp", bmp(100_000, 100_000), "at most 100 megapixels"),
        ("header.tiff", tiff(100_000, 100_000), "at most 100 megapixels"),
        ("wide.tiff", tiff(2**32 - 1, 2**32 - 1, bits=16), "at most 100 megapixels"),
        ("header.jpg", jpeg(65_535, 65_535), "at most 100 megapixels"),
        ("bomb.png", png(30_000, 30_000, bits=1, data=ZEROS), "at most 100 megapixels"),
        ("text.png", png(5, 5, extra=TEXT, data=zlib.compress(bytes(30))), "cannot be read"),
        ("tiles.tiff", tiff(16, 16, tile=50_000), "cannot be read"),
        ("short.png", png(9_000, 9_000, data=zlib.compress(b"0")), "cannot be read"),
        ("canvas.webp", webp(16_384, 16_384), "canvas.webp"),
        ("nothing.png", png(0, 0), "cannot be read"),
        ("nothing.bmp", bmp(0, 5), "cannot be read"),
        ("nothing.tiff", tiff(0, 0), "cannot be read"),
        ("nothing.jpg", jpeg(0, 0), "cannot be read"),
    ],
)
def test_a_header_that_promises_too_much(tmp_path, limited_memory, name, content, words, user_error):
    assert len(content) < 200_000
    (tmp_path / name).write_bytes(content)
    with limited_memory(400):
        message = user_error(read_image, tmp_path / name)
        assert words in message
        assert str(tmp_path / name) in message
        if "pixels" in words:
            assert user_error(check_sizes, {"a": [tmp_path / name]}) == message


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "RGBA", "LA", "I;16", "YCbCr"])
def test_every_common_kind_has_one_or_three_planes(tmp_path, mode):
    suffix = "jpg" if mode in ("CMYK", "YCbCr") else "png"
    image = Image.fromarray(RGB16[:, :, 0]) if mode == "I;16" else Image.fromarray(RGB8).convert(mode)
    image.save(tmp_path / f"a.{suffix}")
    read = read_image(tmp_path / f"a.{suffix}")
    assert read.shape == (1 if mode in ("1", "LA", "I;16") else 3, 5, 7)
    assert read.dtype == (torch.uint16 if mode == "I;16" else torch.uint8)


def test_other_kinds_are_not_opened_whatever_their_suffix(tmp_path, user_error):
    for kind in ("GIF", "PPM", "EPS", "TGA", "ICO"):
        Image.fromarray(RGB8).save(tmp_path / "a.png", format=kind)
        message = user_error(check_sizes, {"a": [tmp_path / "a.png"]})
        assert "not an image of these kinds" in message


# Units and rounding


def test_to_unit_maps_full_scale_to_one():
    assert to_unit(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    assert to_unit(torch.tensor([0, 13107, 65535], dtype=torch.uint16)).tolist() == pytest.approx([0, 0.2, 1])
    assert to_unit(torch.tensor([255], dtype=torch.uint8)).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_from_unit_inverts_to_unit_for_every_value(dtype):
    every = torch.arange(torch.iinfo(dtype).max + 1)
    assert torch.equal(from_unit(to_unit(every.to(dtype)), dtype).long(), every)


def test_rounding_takes_halves_up_and_clamps():
    values = torch.tensor([0.5, 1.5, 2.5, 2.4999], dtype=torch.float64) / 255
    assert to_bytes(values).tolist() == [1, 2, 3, 2]
    assert to_bytes(torch.tensor([-0.3, 1.0000001, 7.0])).tolist() == [0, 255, 255]
    assert to_bytes(torch.ones(1, dtype=torch.bfloat16)).tolist() == [255]


# Writing


@pytest.mark.parametrize("channels", [1, 3])
def test_written_image_is_read_back(tmp_path, channels):
    image = torch.rand(channels, 5, 7, generator=torch.Generator().manual_seed(0))
    write_png(tmp_path / "new" / "a.png", image, overwrite=False)
    assert torch.equal(read_image(tmp_path / "new" / "a.png"), to_bytes(image))
    assert os.listdir(tmp_path / "new") == ["a.png"]


def test_existing_file_is_replaced_only_on_demand(tmp_path, user_error):
    path = tmp_path / "a.png"
    write_png(path, torch.zeros(1, 2, 2), overwrite=False)
    message = user_error(write_png, path, torch.ones(1, 2, 2), overwrite=False)
    assert str(path) in message
    assert "--overwrite" in message
    assert read_image(path).max() == 0
    write_png(path, torch.ones(1, 2, 2), overwrite=True)
    assert read_image(path).min() == 255


def test_unwritable_folder(tmp_path, user_error):
    (tmp_path / "file").write_text("in place of a folder")
    path = tmp_path / "file" / "a.png"
    assert str(path) in user_error(write_png, path, torch.zeros(1, 2, 2), overwrite=True)


@pytest.mark.parametrize("failing", ["os.replace", "PIL.Image.Image.save"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing, error):
    path = tmp_path / "a.png"
    write_png(path, torch.zeros(1, 2, 2), overwrite=False)

    def fail(first, second, *arguments, **keywords):
        if failing != "os.replace":
            second.write_bytes(b"half")
        raise error

    monkeypatch.setattr(failing, fail)
    with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        write_png(path, torch.ones(1, 2, 2), overwrite=True)
    if isinstance(error, OSError):
        assert "No space left" in str(caught.value)
    assert os.listdir(tmp_path) == ["a.png"]
    assert read_image(path).max() == 0


@pytest.mark.parametrize("image", [torch.zeros(2, 4, 4), torch.zeros(4, 4), torch.full((1, 2, 2), torch.nan)])
def test_an_image_of_no_sense_is_not_written(tmp_path, image):
    with pytest.raises(ValueError, match=r"a\.png"):
        write_png(tmp_path / "a.png", image, overwrite=True)
    assert os.listdir(tmp_path) == []


# Finding


def test_image_files_by_stem_in_natural_order(tmp_path):
    images_in(tmp_path, "b10.png", "b9.JPG", "a.TIFF", "b1.bmp", ".hidden.png")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder.png").mkdir()
    files = image_files(tmp_path)
    assert list(files) == ["a", "b1", "b9", "b10"]
    assert files["b9"] == tmp_path / "b9.JPG"


def test_images_of_other_kinds_and_broken_links_are_counted(tmp_path, caplog, user_error):
    images_in(tmp_path, "a.png", "b.webp", "c.JPG", "moved.png")
    Image.fromarray(RGB8).save(tmp_path / "d.jfif", format="JPEG")
    for name in ("1.gif", "2.GIF", "x.jp2", ".hidden.gif", "notes.txt"):
        (tmp_path / name).touch()
    for name in ("broken.png", "other.gif"):
        (tmp_path / name).symlink_to(tmp_path / "nowhere")
    (tmp_path / "linked.png").symlink_to(tmp_path / "a.png")
    assert list(image_files(tmp_path)) == ["a", "b", "c", "d", "linked", "moved"]
    assert caplog.messages == [
        f"{tmp_path}: left out 2 .gif files and 1 .jp2 file and 2 broken links; convert them to PNG or mend "
        "the links to take them in"
    ]
    for path in tmp_path.iterdir():
        if path.suffix.lower() in SUFFIXES:
            path.unlink()
    message = user_error(image_files, tmp_path)
    assert "2 .gif files and 1 .jp2 file and 1 broken link are not read" in message


def oriented(path, way):
    exif = Image.Exif()
    exif[0x0112] = way
    Image.fromarray(RGB8).save(path, exif=exif)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp"])
def test_both_bands_are_turned_alike_or_refused(tmp_path, suffix, user_error):
    infrared, visible = (oriented(tmp_path / f"{band}.{suffix}", 6) for band in ("ir", "vi"))
    check_sizes({"a": [infrared, visible]})
    warm, seen = read_registered(infrared, visible)
    assert warm.shape == (1, 7, 5)
    assert torch.equal(warm, gray(seen))
    upright = tmp_path / f"upright.{suffix}"
    Image.fromarray(RGB8.swapaxes(0, 1)).save(upright)  # of the same size when the other one is turned
    for pair in ([infrared, upright], [upright, visible]):
        for call in (lambda pair=pair: read_registered(*pair), lambda pair=pair: check_sizes({"a": pair})):
            message = user_error(call)
            assert "orientation tag 6" in message or "upright" in message
            assert all(str(path) in message for path in pair)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a\nb", "control characters"),
        ("a\x1b[2Jb", "control characters"),
        (os.fsdecode(b"caf\xe9"), "no UTF-8"),
        ("é" * 126, "longer than 250 bytes"),
        ("a\\b", "leave its folder"),
    ],
)
def test_names_that_could_not_name_an_output(tmp_path, name, words, user_error):
    try:
        (tmp_path / f"{name}.png").touch()
    except OSError:  # this file system knows no such names
        message = user_error(check_name, name)
    else:
        message = user_error(image_files, tmp_path)
    assert words in message
    assert message.isascii()


@pytest.mark.parametrize("name", ["", ".", "..", "...", "../a", "a/b", "/a", "..\\a"])
def test_names_that_would_leave_the_folder(name, user_error):
    assert "would leave its folder" in user_error(check_name, name)


@pytest.mark.parametrize("name", ["a", "-rf", "a b", "~", "夜 01", "A" * 250, "$(x)", "a..b", "*"])
def test_odd_names_that_are_names(tmp_path, name):
    check_name(name)
    write_png(tmp_path / f"{name}.png", torch.zeros(1, 2, 2), overwrite=False)
    assert os.listdir(tmp_path) == [f"{name}.png"]


def test_two_files_of_one_stem(tmp_path, user_error):
    images_in(tmp_path, "a.png", "a.jpg")
    message = user_error(image_files, tmp_path)
    assert "a.png" in message
    assert "a.jpg" in message


def test_missing_and_empty_folder(tmp_path, user_error):
    assert "no such folder" in user_error(image_files, tmp_path / "missing")
    message = user_error(image_files, tmp_path)
    assert str(tmp_path) in message
    assert all(suffix in message for suffix in SUFFIXES)
    images_in(tmp_path / "deeper", "a.png")
    (tmp_path / "other").mkdir()
    message = user_error(image_files, tmp_path)
    assert "(deeper)" in message
