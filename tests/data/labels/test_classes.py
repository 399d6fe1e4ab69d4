"""Maps of classes, as Pillow and OpenCV write them, read to the same numbers; or one line about the file."""

import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from clipfuse.data.labels.classes import check_classes, read_classes
from clipfuse.data.labels.description import Description, parse_labels

PALETTE = [[0, 0, 0], [64, 0, 128], [64, 64, 0], [0, 128, 192]]
SIZE = (12, 16)
MAP = np.random.default_rng(0).integers(0, 4, SIZE).astype(np.uint8)
COLORS = np.array(PALETTE, np.uint8)


def described(kind: str = "index", **changes: Any) -> Description:
    given = {
        "folder": "labels",
        "kind": kind,
        "classes": ["none", "car", "person", "bike"],
        "palette": PALETTE,
    }
    found = parse_labels({**given, **changes}, Path("."))
    assert found is not None
    return found


def with_palette(path: Path, bits: int, numbers: np.ndarray = MAP) -> None:
    image = Image.frombytes("P", SIZE[::-1], numbers.tobytes())
    # The colours of another data set, in which class 1 looks as class 2 does here.
    image.putpalette(
        [channel for color in ([9, 9, 9], PALETTE[2], PALETTE[1], PALETTE[0]) for channel in color]
    )
    image.save(path, bits=bits)


def few_bits(path: Path, bits: int) -> None:
    """Write a gray PNG of few bits, to which tools that make files small reduce such maps."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = [
        b"\0" + np.packbits(np.unpackbits(row[:, None], axis=1)[:, -bits:].ravel()).tobytes() for row in MAP
    ]
    head = struct.pack(">2I5B", SIZE[1], SIZE[0], bits, 0, 0, 0, 0)
    content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def opencv(path: Path, values: np.ndarray) -> None:
    assert cv2.imwrite(str(path), values)


WRITERS: dict[str, Callable[[Path], None]] = {
    "pillow, gray": lambda path: Image.fromarray(MAP).save(path),
    "opencv, gray": lambda path: opencv(path, MAP),
    "opencv, 16 bit": lambda path: opencv(path, MAP.astype(np.uint16)),
    "opencv, three equal channels": lambda path: opencv(path, MAP[:, :, None].repeat(3, 2)),
    "pillow, 8-bit palette": lambda path: with_palette(path, 8),
    "pillow, 2-bit palette": lambda path: with_palette(path, 2),
    "by hand, 4-bit gray": lambda path: few_bits(path, 4),
    "by hand, 2-bit gray": lambda path: few_bits(path, 2),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_numbers_are_read_as_they_are_stored(writer: str, tmp_path: Path) -> None:
    WRITERS[writer](tmp_path / "a.png")
    assert check_classes([tmp_path / "a.png"], described()) == "RGB"
    assert np.array_equal(read_classes(tmp_path / "a.png", described(), SIZE), MAP)


COLORED: dict[str, Callable[[Path], None]] = {
    "pillow, RGB": lambda path: Image.fromarray(COLORS[MAP]).save(path),
    "opencv, RGB": lambda path: opencv(path, COLORS[MAP][:, :, ::-1]),
    "opencv, BGR": lambda path: opencv(path, COLORS[MAP]),
    "pillow, BGR": lambda path: Image.fromarray(COLORS[MAP][:, :, ::-1].copy()).save(path),
}


@pytest.mark.parametrize("writer", COLORED)
def test_colours_are_looked_up_in_either_order(writer: str, tmp_path: Path) -> None:
    COLORED[writer](tmp_path / "a.png")
    order = check_classes([tmp_path / "a.png"], described("color"))
    assert order == writer[-3:]
    assert np.array_equal(read_classes(tmp_path / "a.png", described("color"), SIZE, order), MAP)


def test_a_map_of_one_palette_is_read_by_its_colours_where_colours_are_described(tmp_path: Path) -> None:
    image = Image.frombytes("P", SIZE[::-1], MAP.tobytes())
    image.putpalette([channel for color in PALETTE[::-1] for channel in color])
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_classes(tmp_path / "a.png", described("color"), SIZE), 3 - MAP)


def test_one_order_holds_for_all_files(tmp_path: Path, user_error: Callable[..., str]) -> None:
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    for path, step in zip(paths, (1, -1, -1), strict=True):
        Image.fromarray(COLORS[MAP][:, :, ::step].copy()).save(path)
    found = user_error(check_classes, paths, described("color"))
    assert found.startswith(f"{paths[0]}: the pixel at column ")
    assert "(most files fit BGR)" in found


def test_the_first_unknown_colour_is_named_with_its_place(
    tmp_path: Path, user_error: Callable[..., str]
) -> None:
    image = COLORS[MAP]
    image[5, 3], image[7, 1] = (1, 2, 3), (9, 9, 9)
    Image.fromarray(image).save(tmp_path / "a.png")
    found = user_error(check_classes, [tmp_path / "a.png"], described("color"))
    assert (
        "a.png: the pixel at column 3, row 5 has the colour RGB (1, 2, 3), which is in the palette" in found
    )
    assert found == user_error(read_classes, tmp_path / "a.png", described("color"), SIZE)


def test_what_means_no_label_is_ignored_and_no_class_becomes_0(tmp_path: Path) -> None:
    stored = MAP.copy()
    stored[0] = 255
    Image.fromarray(stored).save(tmp_path / "a.png")
    assert check_classes([tmp_path / "a.png"], described(ignore=255)) == "RGB"
    found = read_classes(tmp_path / "a.png", described(ignore=255), SIZE).numpy()
    assert (found[0] == 255).all()
    assert np.array_equal(found[1:], MAP[1:])
    # As the 14 classes of FMB: its background has a number and counts as no label.
    Image.fromarray(MAP).save(tmp_path / "b.png")
    assert np.array_equal(
        read_classes(tmp_path / "b.png", described(ignore=0), SIZE), np.where(MAP == 0, 255, MAP)
    )
    Image.fromarray(COLORS[MAP]).save(tmp_path / "c.png")
    assert np.array_equal(
        read_classes(tmp_path / "c.png", described("color", ignore=PALETTE[2]), SIZE),
        np.where(MAP == 2, 255, MAP),
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (4, "a.png: holds the class 4 in 2 pixels; expected 0 to 3: mend the file"),
        (255, "holds the class 255 in 2 pixels; expected 0 to 3: mend"),
        (300, "holds the class 300 in 2 pixels"),
    ],
)
def test_a_class_out_of_range_is_named(
    value: int, expected: str, tmp_path: Path, user_error: Callable[..., str]
) -> None:
    stored = MAP.astype(np.uint16 if value > 255 else np.uint8)
    stored[3, 4:6] = value
    opencv(tmp_path / "a.png", stored)
    assert expected in user_error(check_classes, [tmp_path / "a.png"], described())
    assert expected in user_error(read_classes, tmp_path / "a.png", described(), SIZE)


def test_maps_of_another_kind_or_size_are_named(tmp_path: Path, user_error: Callable[..., str]) -> None:
    Image.fromarray(COLORS[MAP]).save(tmp_path / "a.png")
    for call, what in (
        (check_classes, [tmp_path / "a.png"]),
        (partial(read_classes, size=SIZE), tmp_path / "a.png"),
    ):
        assert "a.png: is in colour or of floating point; expected one number per class" in user_error(
            call, what, described=described()
        )
    Image.fromarray(MAP / np.float32(4)).save(tmp_path / "a.tif")
    assert "a.tif: is in colour or of floating point" in user_error(
        check_classes, [tmp_path / "a.tif"], described()
    )
    opencv(tmp_path / "d.png", COLORS[MAP].astype(np.uint16))
    assert "d.png: has more than 8 bits" in user_error(
        check_classes, [tmp_path / "d.png"], described("color")
    )
    for kind in ("index", "color"):
        WRITERS["pillow, gray"](tmp_path / "b.png")
        if kind == "color":
            COLORED["pillow, RGB"](tmp_path / "b.png")
        assert (
            "b.png is 16 x 12 pixels, but its pair 20 x 12; take the labels at the pair's size"
            in user_error(read_classes, tmp_path / "b.png", described(kind), (12, 20))
        )
    (tmp_path / "c.png").write_bytes(b"no image")
    assert "c.png: cannot be read" in user_error(check_classes, [tmp_path / "c.png"], described())
