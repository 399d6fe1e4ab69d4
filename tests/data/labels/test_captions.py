"""Texts about pairs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from clipfuse.data.labels.captions import read_captions


def test_each_pair_has_its_text(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text('name,caption\nb,"two cars, at night"\na, a person \nother,x\n')
    for path in ("captions.csv", str(tmp_path / "captions.csv")):
        assert read_captions(path, ["a", "b"], tmp_path) == {"a": "a person", "b": "two cars, at night"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name,caption\na,x\n", "has no text for 1 of 2 pairs, the first is 'b'"),
        ("name,caption\na,x\nb, \n", "has no text for 1 of 2 pairs, the first is 'b'"),
        ("name,caption\na,x\nb,y\na,z\n", "line 4 is the second about 'a'"),
        ("name,text\na,x\n", "it has no column 'caption'"),
        (None, "give data.captions a file with the columns name,caption"),
    ],
)
def test_a_table_that_does_not_suffice(
    text: str | None, expected: str, tmp_path: Path, user_error: Callable[..., str]
) -> None:
    if text is not None:
        (tmp_path / "captions.csv").write_text(text)
    assert expected in user_error(read_captions, "captions.csv", ["a", "b"], tmp_path)
