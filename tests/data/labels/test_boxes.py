"""Boxes: read as a second, slower reader reads them, from two writers, and refused by file and place."""

import os
import re
import xml.dom.minidom
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clipfuse.data.labels.boxes import MOST_BYTES, OVERHANG, BoxKind, check_boxes, read_boxes
from clipfuse.errors import UserError
from clipfuse.types import Boxes, LabelSet

Refusal = Callable[..., str]
M3FD = LabelSet(("People", "Car", "Bus", "Lamp", "Motorcycle", "Truck"), background=None)
HEIGHT, WIDTH = 768, 1024
SIZE = (HEIGHT, WIDTH)
Row = tuple[int, float, float, float, float]


def voc(rows: list[Row], size: tuple[int, int] = SIZE) -> str:
    """Write (class, xmin, ymin, xmax, ymax) as labelImg does, which M3FD and LLVIP were labelled with."""
    root = ElementTree.Element("annotation")
    for tag, text in (("folder", "Ir"), ("filename", "00000.png"), ("path", "D:\\Ir\\00000.png")):
        ElementTree.SubElement(root, tag).text = text
    stated = ElementTree.SubElement(root, "size")
    for tag, number in (("width", size[1]), ("height", size[0]), ("depth", 3)):
        ElementTree.SubElement(stated, tag).text = str(number)
    for kind, *corners in rows:
        item = ElementTree.SubElement(root, "object")
        words = {"name": M3FD.names[kind], "pose": "Unspecified", "truncated": "1", "difficult": "1"}
        for tag, text in words.items():
            ElementTree.SubElement(item, tag).text = text
        box = ElementTree.SubElement(item, "bndbox")
        for tag, corner in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
            ElementTree.SubElement(box, tag).text = repr(corner)
    ElementTree.indent(root, "\t")
    return ElementTree.tostring(root, encoding="unicode")


def yolo(rows: list[Row], size: tuple[int, int] = SIZE) -> str:
    """Write the same corners as fractions, with all digits."""
    lines = []
    for kind, xmin, ymin, xmax, ymax in rows:
        x, y, wide, high = (xmin - 1 + xmax) / 2, (ymin - 1 + ymax) / 2, xmax - xmin + 1, ymax - ymin + 1
        lines.append(f"{kind} {x / size[1]!r} {y / size[0]!r} {wide / size[1]!r} {high / size[0]!r}\n")
    return "".join(lines)


def slowly(text: str) -> list[tuple[str, list[float]]]:
    """Read names and edges of XML by the document's tree of another parser."""

    def content(node: xml.dom.minidom.Element, tag: str) -> str:
        (child,) = node.getElementsByTagName(tag)[0].childNodes
        assert isinstance(child, xml.dom.minidom.Text)
        return child.data.strip()

    found = []
    for item in xml.dom.minidom.parseString(text).getElementsByTagName("object"):
        corners = [float(content(item, tag)) for tag in ("xmin", "ymin", "xmax", "ymax")]
        found.append((content(item, "name"), [corners[0] - 1, corners[1] - 1, corners[2], corners[3]]))
    return found


@st.composite
def rows_of_boxes(draw: st.DrawFn) -> list[Row]:
    """Corners in whole pixels of different objects, also those of one pixel and of the whole image."""
    rows = set()
    for _ in range(draw(st.integers(0, 6))):
        xmin, ymin = draw(st.integers(1, WIDTH)), draw(st.integers(1, HEIGHT))
        xmax, ymax = draw(st.integers(xmin, WIDTH)), draw(st.integers(ymin, HEIGHT))
        rows.add((draw(st.integers(0, len(M3FD) - 1)), xmin, ymin, xmax, ymax))
    return sorted(rows)


def read(folder: Path, text: str | bytes, kind: BoxKind, labels: LabelSet = M3FD) -> Boxes:
    path = folder / f"00000.{'xml' if kind == 'voc' else 'txt'}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_boxes(path, kind, labels, SIZE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("boxes")


@settings(max_examples=60, deadline=None)
@given(rows_of_boxes())
@example([(0, 1, 1, 1, 1), (5, 1, 1, WIDTH, HEIGHT)])
def test_what_two_writers_write_is_read_back(folder: Path, rows: list[Row]) -> None:
    """Corners in whole pixels are exact in float32; fractions lose 1e-4 of a pixel, float32's at 1024."""
    truth = torch.tensor([[x - 1, y - 1, right, bottom] for _, x, y, right, bottom in rows]).reshape(-1, 4)
    slow = slowly(voc(rows))
    kinds: list[tuple[BoxKind, float]] = [("voc", 0.0), ("yolo", 1e-4)]
    for kind, tolerance in kinds:
        found = read(folder, voc(rows) if kind == "voc" else yolo(rows), kind)
        assert (found.xyxy.dtype, found.classes.dtype) == (torch.float32, torch.int64)
        assert found.xyxy.shape == (len(rows), 4)
        assert [M3FD.names[each] for each in found.classes] == [name for name, _ in slow]
        torch.testing.assert_close(found.xyxy, truth.float(), rtol=0, atol=tolerance)
        edges = torch.tensor([edges for _, edges in slow]).reshape(-1, 4)
        torch.testing.assert_close(found.xyxy, edges, rtol=0, atol=tolerance)


FRACTIONS = st.floats(-0.25, 1.25, width=16)
ODD = st.sampled_from(["nan", "-inf", "1e308", "-1e308", "1e-320", "0", "", "1_0", "٣", "0x1", "1e999", "."])
WORDS = FRACTIONS.map(repr) | ODD
PLAIN = st.tuples(st.integers(0, 5).map(str), *[st.floats(0.25, 0.75, width=16).map(repr)] * 4).map(list)
ROWS = PLAIN | st.lists(st.integers(-2, 7).map(str) | WORDS, min_size=4, max_size=6)


def by_expression(text: str) -> set[Row] | None:
    """Read YOLO text by one regular expression for a line; None where a line breaks the rules."""
    number = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[-+]?[0-9]+)?"
    row = re.compile(r"\s*([+-]?0+(?:\.0*)?|[1-5](?:\.0*)?)" + rf"\s+({number})" * 4 + r"\s*")
    found: set[Row] = set()
    for line in filter(str.strip, re.split(r"\r?\n", text)):
        match = row.fullmatch(line)
        if match is None:
            return None
        x, y, wide, high = (float(word) for word in match.groups()[1:])
        edges = []
        for centre, length, most in ((x, wide, WIDTH), (y, high, HEIGHT)):
            low, top = (centre - length / 2) * most, (centre + length / 2) * most
            cut = torch.tensor([max(low, 0), min(top, most)], dtype=torch.float32).tolist()
            if not (low >= -OVERHANG and top <= most + OVERHANG and cut[0] < cut[1]):
                return None
            edges.append(cut)
        (left, right), (top, bottom) = edges
        found.add((int(float(match[1])), left, top, right, bottom))
    return found


@settings(max_examples=200, deadline=None)
@given(st.lists(ROWS, max_size=3), st.sampled_from(["\n", "\r\n", "\n\n"]))
@example([["0", "1.0", "0.5", "1e-9", "0.5"]], "\n")  # empty in float32 alone
@example([["0", "0.5", "0.5", "0.1", "0.1"], ["5.0", "0.5", "0.5", "1.001", "0.1"]], "\r\n")
def test_any_text_gives_whole_boxes_or_one_line(folder: Path, rows: list[list[str]], end: str) -> None:
    text = end.join(" ".join(words) for words in rows)
    expected = by_expression(text)
    if expected is None:
        with pytest.raises(UserError, match=r"^\S+00000\.txt: line \d [^\n]+$"):
            read(folder, text, "yolo")
    else:
        found = read(folder, text, "yolo")
        edges = zip(found.classes.tolist(), found.xyxy.tolist(), strict=True)
        assert {(kind, *each) for kind, each in edges} == expected


BARE = '<?xml version="1.0" encoding="gbk"?><annotation/>'  # it is UTF-8 nevertheless
GOOD = voc([(1, 10, 20, 30, 40), (2, 1, 2, 3, 4)])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(GOOD)), st.binary(max_size=6), st.integers(0, 6))
def test_any_change_of_an_xml_gives_boxes_or_one_line(
    folder: Path, place: int, change: bytes, lost: int
) -> None:
    whole = GOOD.encode()
    try:
        found = read(folder, whole[:place] + change + whole[place + lost :], "voc")
    except UserError as error:
        message = str(error)
    else:
        assert set(found.classes.tolist()) <= set(range(len(M3FD)))
        message = f"{folder}/00000.xml: no more than plain boxes"
    assert message.startswith(f"{folder}/00000.xml: ")
    assert message.isprintable()


def test_no_objects_is_a_file_that_is_empty_and_a_missing_file_is_an_error(
    tmp_path: Path, user_error: Refusal
) -> None:
    files: list[tuple[BoxKind, str]] = [("yolo", ""), ("yolo", "\n \r\n"), ("voc", voc([])), ("voc", BARE)]
    for kind, text in files:
        found = read(tmp_path, text, kind)
        assert (len(found), found.xyxy.shape, found.classes.dtype) == (0, (0, 4), torch.int64)
    message = user_error(read_boxes, tmp_path / "a.txt", "yolo", M3FD, SIZE)
    assert "a.txt: cannot be read (No such file or directory)" in message
    assert "an image without objects has an empty one" in message
    assert "without <object>" in user_error(read_boxes, tmp_path / "a.xml", "voc", M3FD, SIZE)


def test_edges_that_overhang_by_rounding_are_clipped(tmp_path: Path) -> None:
    """Corners counted from 0, as some programs write them, and fractions of six digits."""
    found = read(tmp_path, voc([(1, 0, 0, 5, 6)]), "voc")
    assert found.xyxy.tolist() == [[0, 0, 5, 6]]
    found = read(tmp_path, "1 0.999999 0.5 0.000977 1.000001", "yolo")
    assert found.xyxy[0, 1:].tolist() == [0, 1024, 768]


def test_names_are_found_in_other_letter_case_unless_two_would_fit(
    tmp_path: Path, user_error: Refusal
) -> None:
    text = voc([(1, 1, 1, 5, 5)]).replace("Car", " CAR ")
    assert read(tmp_path, text, "voc").classes.tolist() == [1]
    two = LabelSet(("car", "Car", "bus"), background=None)
    assert read(tmp_path, voc([(1, 1, 1, 5, 5)]), "voc", two).classes.tolist() == [1]
    message = user_error(read, tmp_path, text, "voc", two)
    assert "00000.xml: object 1 is named 'CAR'; expected one of car, Car, bus" in message


def test_equal_boxes_of_one_class_count_once(tmp_path: Path) -> None:
    """LLVIP's converter appends to its files: run a second time it doubles every box."""
    rows: list[Row] = [(0, 1, 1, 5, 5), (1, 1, 1, 5, 5), (0, 2, 1, 5, 5)]
    found = read(tmp_path, yolo(rows) * 2, "yolo")
    assert found.classes.tolist() == [0, 1, 0]
    other = tmp_path / "1.txt"
    other.write_text(yolo(rows))
    paths = [tmp_path / "00000.txt", other]
    message = check_boxes(paths, "yolo", M3FD, [SIZE, SIZE])
    assert message is not None
    assert message.startswith(f"1 of 2 files, such as {paths[0]}, repeat 3 boxes; each counts once")
    assert check_boxes([other], "yolo", M3FD, [SIZE]) is None


def test_msrs_has_the_numbers_of_coco(tmp_path: Path) -> None:
    """The first lines of its `detection/labels/1042.txt` are a person and a car."""
    labels = LabelSet(("person", "bicycle", "car"), background=None)
    found = read(tmp_path, "0 .67 .5 .1 .2\n2 .42 .5 .1 .2\n", "yolo", labels)
    assert [labels.names[each] for each in found.classes] == ["person", "car"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as XML (no element found: line 1, column 0); restore the file"),
        (GOOD[:-13], "cannot be read as XML (no element found: line"),
        (GOOD.encode()[:90] + b"\xff" + GOOD.encode()[90:], "byte 91 is no UTF-8"),
        (GOOD.encode("utf-16"), "byte 1 is no UTF-8"),
        ("<html/>", "begins with 'html'; expected <annotation>"),
        (f'<!DOCTYPE a [<!ENTITY b "c">]>{GOOD}', "has a DOCTYPE, which no file of boxes needs; remove it"),
        (GOOD.replace("10", "&xxe;"), "cannot be read as XML (undefined entity"),
        (GOOD.replace("1024", "512"), "is for an image of 512 x 768 pixels, but its image has 1024 x 768;"),
        (GOOD.replace("1024", ""), "its size has ''; expected a finite number"),
        (GOOD.replace("height", "high"), "its size has no <height>; expected one"),
        (GOOD.replace("Bus", "Buss"), "object 2 is named 'Buss'; expected one of People, Car, Bus,"),
        (GOOD.replace("Bus", "\x1b[2J" * 9), "cannot be read as XML (not well-formed"),
        (GOOD.replace("Bus", ""), "object 2 is named ''; expected one of"),
        (GOOD.replace("bndbox", "polygon"), "object 1 has no <bndbox>; expected one"),
        (GOOD.replace("xmax", "xmin"), "object 1 has 2 <xmin>; expected one"),
        (GOOD.replace("30", "nan"), "object 1 has 'nan'; expected a finite number"),
        (GOOD.replace("30", "1e999"), "object 1 has '1e999'; expected a finite number"),
        (
            GOOD.replace("30", "9"),
            "object 1 (Car) is empty: from (9, 19) to (9, 40) in an image of 1024 x 768",
        ),
        (GOOD.replace("30", "5"), "object 1 (Car) is empty: from (9, 19) to (5, 40)"),
        (GOOD.replace("30", "1026"), "object 1 (Car) reaches out of its image: from (9, 19) to (1026, 40)"),
        (GOOD.replace("10<", "-1<"), "object 1 (Car) reaches out of its image: from (-2, 19)"),
        (GOOD + " " * MOST_BYTES, "it is larger than 1 MiB"),
        ("<annotation>" + "<a>" * 300_000, "cannot be read as XML (no element found"),
    ],
)
def test_xml_that_is_no_file_of_boxes_is_refused(
    tmp_path: Path, user_error: Refusal, text: str | bytes, message: str
) -> None:
    found = user_error(read, tmp_path, text, "voc")
    assert found.startswith(f"{tmp_path}/00000.xml: ")
    assert message in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "0 .5 .5 .1 .1\n0 .5 .5 .1",
            "line 2 has 4 columns; expected 5: class centre_x centre_y width height",
        ),
        ("0 .5 .5 .1 .1 .9", "line 1 has 6 columns; expected 5"),
        ("٣ .5 .5 .1 .1", "line 1 has '٣'; expected a finite number"),
        ("\n\n6 .5 .5 .1 .1", "line 3 is of class 6; expected a number from 0 to 5 (People, Car, Bus, Lamp,"),
        ("-1 .5 .5 .1 .1", "line 1 is of class -1; expected"),
        ("0.5 .5 .5 .1 .1", "line 1 is of class 0.5; expected"),
        ("Car .5 .5 .1 .1", "line 1 has 'Car'; expected a finite number"),
        ("0 nan .5 .1 .1", "line 1 has 'nan'; expected a finite number"),
        (
            "0 .5 .5 0 .1",
            "line 1 (People) is empty: from (512, 345.6) to (512, 422.4) in an image of 1024 x 768",
        ),
        ("0 .5 .5 -.1 .1", "line 1 (People) is empty"),
        ("0 .5 .5 1.01 .1", "line 1 (People) reaches out of its image: from (-5.12, 345.6)"),
        ("0 512 384 20 20", "line 1 (People) reaches out of its image"),
        ("\x1b[2J .5 .5 .1 .1", r"line 1 has '\x1b[2J'; expected a finite number"),
    ],
)
def test_text_that_is_no_file_of_boxes_is_refused(
    tmp_path: Path, user_error: Refusal, text: str, message: str
) -> None:
    found = user_error(read, tmp_path, text, "yolo")
    assert found.startswith(f"{tmp_path}/00000.txt: ")
    assert message in found


def test_the_background_has_no_boxes(tmp_path: Path, user_error: Refusal) -> None:
    labels = LabelSet(("unlabelled", "Car"), background=0)
    assert read(tmp_path, "1 .5 .5 .1 .1", "yolo", labels).classes.tolist() == [1]
    message = user_error(read, tmp_path, "0 .5 .5 .1 .1", "yolo", labels)
    assert "line 1 is of class 0 (unlabelled), the background, which has no boxes" in message


def test_all_files_are_looked_at_and_the_first_bad_one_is_described(
    tmp_path: Path, user_error: Refusal
) -> None:
    paths = [tmp_path / f"{number}.txt" for number in range(10)]
    for number, path in enumerate(paths):
        path.write_text("9 .5 .5 .1 .1\n" if number % 4 else "0 .5 .5 .1 .1\n")
    message = user_error(check_boxes, paths, "yolo", M3FD, [SIZE] * 10)
    assert message.startswith(f"7 of 10 files of boxes cannot be used: {paths[1]}: line 1 is of class 9;")
    assert message.endswith("; nor can 2.txt, 3.txt, 5.txt, 6.txt, 7.txt, ...")
    message = user_error(check_boxes, paths[:2], "yolo", M3FD, [SIZE] * 2)
    assert message.startswith(f"{paths[1]}: line 1 is of class 9;")
    assert "nor can" not in message


def test_a_pipe_in_the_place_of_a_file_makes_nobody_wait(tmp_path: Path, user_error: Refusal) -> None:
    os.mkfifo(tmp_path / "a.txt")
    assert "it is a pipe, socket or device" in user_error(read_boxes, tmp_path / "a.txt", "yolo", M3FD, SIZE)
