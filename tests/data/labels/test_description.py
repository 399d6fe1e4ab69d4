"""The setting `data.labels`: what it means, and what it refuses by the name of the key."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipfuse.data.labels.description import parse_labels
from clipfuse.types import LabelSet

GIVEN = {"folder": "labels", "kind": "index", "classes": ["none", "car", "person"]}


def parsed(**changes: Any) -> Any:
    return parse_labels({**GIVEN, **changes}, Path("."))


def test_what_is_left_out_is_not_there() -> None:
    assert parse_labels(None, Path(".")) is None
    found = parsed()
    assert (found.folder, found.kind, found.ignore, found.boxes) == ("labels", "index", None, False)
    assert found.labels == LabelSet(("none", "car", "person"), background=None)


def test_everything_that_can_be_described() -> None:
    palette = [[0, 0, 0], [64, 0, 128], [64, 64, 0]]
    found = parsed(
        kind="color",
        palette=palette,
        background=0,
        groups={"day": "D$", "night": "N$"},
        objects=["person"],
        ignore=[255, 255, 255],
    )
    assert found.labels == LabelSet(
        ("none", "car", "person"),
        0,
        ((0, 0, 0), (64, 0, 128), (64, 64, 0)),
        (("day", "D$"), ("night", "N$")),
        ("person",),
    )
    assert found.ignore == (255, 255, 255)
    assert parsed(kind="yolo").boxes
    assert parsed(ignore=255).ignore == 255


def test_names_come_from_a_file_of_one_name_per_line(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("road\n\n  traffic light \nperson\r\n")
    for name in ("classes.txt", str(tmp_path / "classes.txt")):
        found = parse_labels({**GIVEN, "classes": name}, tmp_path)
        assert found is not None
        assert found.labels.names == ("road", "traffic light", "person")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"colours": 3}, "has a key 'colours'"),
        ({"pallete": []}, "Did you mean 'palette'?"),
        ({"folder": None}, "data.labels.folder is None; expected the name"),
        ({"kind": "indexed"}, "data.labels.kind is 'indexed'; expected index (maps"),
        ({"kind": "indexed"}, "Did you mean 'index'?"),
        ({"classes": []}, "data.labels.classes is []"),
        ({"classes": "car, person"}, "data.labels.classes is 'car, person'; expected the names"),
        ({"classes": ["car", 3]}, "expected the names of the classes 0, 1, ... as texts"),
        ({"classes": ["car", "car"]}, "names 'car' twice"),
        ({"classes": [str(i) for i in range(256)]}, "names 256 classes; expected 255 at most"),
        ({"classes": "missing.txt"}, "data.labels.classes=missing.txt: no such file"),
        ({"palette": [[0, 0, 0]]}, "data.labels.palette has 1 colours for 3 classes"),
        ({"palette": [[0, 0], [1, 1, 1], [2, 2, 2]]}, "data.labels.palette is [0, 0]; expected RGB"),
        ({"palette": [[0, 0, 256]] * 3}, "three whole numbers from 0 to 255"),
        ({"kind": "color"}, "needs data.labels.palette: RGB of each of the 3 classes"),
        ({"kind": "color", "palette": [[0, 0, 0], [0, 0, 0], [1, 1, 1]]}, "gives two classes one colour"),
        ({"background": 3}, "data.labels.background is 3; expected null or a class from 0 to 2"),
        ({"background": True}, "data.labels.background is True"),
        ({"ignore": "255"}, "data.labels.ignore is '255'"),
        ({"ignore": 256}, "data.labels.ignore is 256"),
        ({"kind": "voc", "ignore": 255}, "data.labels.ignore is 255"),
        ({"objects": "car"}, "data.labels.objects is 'car'; expected null or a list of names"),
        (
            {"objects": ["cars"]},
            "objects names 'cars'; expected some of none, car, person. Did you mean 'car'?",
        ),
        ({"groups": ["N$"]}, "data.labels.groups is ['N$']; expected a mapping"),
        ({"groups": {"car": "N$"}}, "has a group 'car'; expected a word that is no name of a class"),
        ({"groups": {"a/b": "N$"}}, "has a group 'a/b'"),
        ({"groups": {"night": "N("}}, "data.labels.groups.night is 'N(', no regular expression"),
        ({"groups": {"night": "(?i)n$"}}, "data.labels.groups.night is '(?i)n$', which compare would not"),
        ({"groups": {f"g{i}": "N$" for i in range(21)}}, "data.labels.groups has 21 groups; expected 20"),
    ],
)
def test_what_is_wrong_is_named(
    changes: dict[str, Any], expected: str, user_error: Callable[..., str]
) -> None:
    assert expected in user_error(parsed, **changes)


def test_labels_that_are_no_mapping(user_error: Callable[..., str]) -> None:
    assert "data.labels is 'labels'; expected null or a mapping of folder" in user_error(
        parse_labels, "labels", Path(".")
    )
