"""Pairs that the user names by patterns or in a table."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipfuse.data.folder import PairedFolder
from clipfuse.data.listed import given_pairs, listed_pairs

Refusal = Callable[..., str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two bands that no name marks, two scenes of two images, and a mask each."""
    generator = np.random.default_rng(0)
    for name in ("one/a_1", "one/a_2", "two/a_1", "two/a_2"):
        for folder in ("1a", "1b", "mask"):
            path = tmp_path / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            top = 2 if folder == "mask" else 256
            Image.fromarray(generator.integers(0, top, (20, 24)).astype(np.uint8)).save(path)
    return tmp_path


def test_a_pattern(root: Path) -> None:
    found = listed_pairs("1a/{scene}/a_{id}.png | 1b/{scene}/a_{id}.png", root, root)
    assert list(found.pairs) == ["one-1", "one-2", "two-1", "two-2"]
    assert found.pairs["two-1"].scene == "two"
    assert found.pairs["two-1"].visible == root / "1b/two/a_1.png"
    assert found.left_out == {"that match no pattern": 4}
    assert found.summary().startswith("4 pairs: 4 by the pattern 1a/{scene}")


@pytest.mark.parametrize(
    "pattern", ["1a/{s}/{id}|1b/{s}/{id}", "1a/{s}/{id}.png | 1b/{s}/{id}", "1a/*/{s}_{id} | 1b/*/{s}_{id}"]
)
def test_the_suffix_may_be_left_out_and_a_star_stands_for_anything(
    root: Path, pattern: str, user_error: Refusal
) -> None:
    if "*" in pattern:
        assert "are both 'a-1' by" in user_error(listed_pairs, pattern, root, root)
    else:
        assert len(listed_pairs(pattern, root, root).pairs) == 4


def test_two_roots(root: Path) -> None:
    found = given_pairs(root / "1a", root / "1b", "{s}/{id} | {s}/{id}")
    assert found.pairs["one-a_1"].visible == root / "1b/one/a_1.png"


def test_parts_of_a_pattern(root: Path) -> None:
    for band in ("1a", "1b"):
        (root / band / "one").rename(root / band / "train")
        (root / band / "two").rename(root / band / "test")
    source = PairedFolder(str(root), pairs="1a/{part}/{id} | 1b/{part}/{id}", val=0)
    assert source.parts()["test"] == ("test-a_1", "test-a_2")
    assert source.parts()["train"] == ("train-a_1", "train-a_2")


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("1a/{id}.png", "expected two patterns"),
        ("1a/{id} | 1b/{name}", "the same words in braces"),
        ("1a/x | 1b/x", "the same words in braces"),
        ("{id}/{id} | {id}/{id}", "occurs twice"),
        ("ir/{id} | vi/{id}", "no file of"),
        ("1a/{s}/{id} | 1b/{s}/{id}_{id}", "the same words in braces"),
        ("{1}/{id} | {1}/{id}", "no pattern"),
        ("1a/one/{id} | 1b/one/a_{id}", "no infrared file"),
    ],
)
def test_patterns_that_do_not_work(root: Path, user_error: Refusal, pattern: str, words: str) -> None:
    assert words in user_error(listed_pairs, pattern, root, root)


def table(root: Path, *lines: str) -> str:
    (root / "pairs.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    return str(root / "pairs.csv")


def test_a_table_with_scenes_and_labels(root: Path) -> None:
    rows = [f"1a/{n}.png,1b/{n}.png,{n[:3]},mask/{n}.png" for n in ("one/a_1", "one/a_2", "two/a_1")]
    path = table(root, "infrared,visible,scene,label", *rows)
    source = PairedFolder(str(root), pairs=path, val=0, test=1)
    assert source.parts()["test"] == ("one-a_1", "one-a_2", "two-a_1")
    assert source.scenes() == {"one-a_1": "one", "one-a_2": "one", "two-a_1": "two"}
    assert source.scene_notes()["source"] == "pairs"
    mask = source.load("two-a_1").target_mask
    assert mask is not None
    assert np.array_equal(mask[0].numpy(), np.array(Image.open(root / "mask/two/a_1.png")) > 0)


def test_a_table_of_unequal_names(root: Path) -> None:
    path = table(root, "visible,infrared", "1b/two/a_2.png,1a/one/a_1.png")
    found = listed_pairs(path, root, root)
    assert list(found.pairs) == ["a_1"]
    assert found.pairs["a_1"].visible == root / "1b/two/a_2.png"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["a,b", "x,y"], "it has no column 'infrared'); data.pairs: expected"),
        ([], "it is empty"),
        (
            ["infrared,visible,name", "x,y,z"],
            "has a column 'name'; expected infrared,visible[,scene][,label]",
        ),
        (["infrared,visible"], "lists no pairs"),
        (["infrared,visible", "1a/one/a_1.png,"], "line 2 names no visible file"),
        (["infrared,visible", "1a/one/a_1.png,1b/x.png"], "1b/x.png is no file"),
        (
            ["infrared,visible", "1a/one/a_1.png,1b/one/a_1.png,z"],
            "line 2 is cut off or too long: 3 cells for 2 columns",
        ),
        (["infrared,visible", *["1a/one/a_1.png,1b/one/a_1.png"] * 2], "would both be called"),
        (["infrared,visible", "pairs.csv,1b/one/a_1.png"], "is no image by its name"),
    ],
)
def test_tables_that_do_not_work(root: Path, user_error: Refusal, lines: list[str], words: str) -> None:
    assert words in user_error(listed_pairs, table(root, *lines), root, root)


def test_a_table_that_is_not_there(root: Path, user_error: Refusal) -> None:
    assert "cannot be read (No such file" in user_error(listed_pairs, str(root / "none.csv"), root, root)


def test_two_files(root: Path, user_error: Refusal) -> None:
    one, other = root / "1a/one/a_1.png", root / "1b/one/a_2.png"
    assert list(given_pairs(one, other).pairs) == ["a_1"]
    assert "are one file" in user_error(given_pairs, one, one)
