"""Which pair is in which part: cut by hash, or read from a split file."""

import hashlib
import json
from itertools import pairwise
from pathlib import Path

import pytest

from clipfuse.data.splits import find_lists, hash_split, read_split, split_fingerprint

REPOSITORY = Path(__file__).parents[2]
NAMES = [f"scene{i}" for i in range(30)]


def write_split(path, **content):
    path.write_text(json.dumps({"train": NAMES[:10], "val": ["scene10"], "test": ["scene11"]} | content))
    return str(path)


# Hash split


def slow_part(name, val, test):
    u = int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 2**64
    if u < test:
        return "test"
    return "val" if u < test + val else "train"


def test_hash_split_follows_the_stated_rule():
    names = [f"n{i}" for i in range(500)]
    parts = hash_split(names, 0.1, 0.2)
    assert all(name in parts[slow_part(name, 0.1, 0.2)] for name in names)
    assert sum(map(len, parts.values())) == 500
    assert 60 < len(parts["test"]) < 140
    assert hash_split(names[::-1], 0.1, 0.2) == parts
    assert parts["test"] == tuple(sorted(parts["test"], key=lambda name: int(name[1:])))


@pytest.mark.parametrize("count", [3, 4, 5])
@pytest.mark.parametrize("shares", [(0.1, 0.2), (0.001, 0.001), (0.49, 0.5)])
def test_tiny_sets_leave_no_part_empty(count, shares):
    for first in range(50):
        names = [f"n{i}" for i in range(first, first + count)]
        parts = hash_split(names, *shares)
        assert sorted(sum(parts.values(), ())) == sorted(names)
        assert all(parts.values())


def test_a_share_of_zero_gives_no_part():
    assert hash_split(["a"], 0, 0) == {"train": ("a",), "val": (), "test": ()}
    assert hash_split(["a", "b"], 0.5, 0)["test"] == ()


def test_all_pairs_can_be_test_pairs():
    parts = hash_split(NAMES, 0, 1)
    assert (parts["train"], parts["val"], len(parts["test"])) == ((), (), len(NAMES))
    assert hash_split(["one"], 0, 1)["test"] == ("one",)


def test_too_few_pairs_and_wrong_shares(user_error):
    message = user_error(hash_split, ["a", "b"], 0.1, 0.2)
    assert "2 pairs (a, b)" in message
    assert "data.val=0 data.test=1" in message
    for shares in ((-0.1, 0.2), (0.5, 0.6), (0, 1.1)):
        assert "expected shares" in user_error(hash_split, NAMES, *shares)


# Split files


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"train": [], "val": []}',
        '{"train": [1], "val": [], "test": []}',
        '{"train": "a", "val": [], "test": []}',
    ],
)
def test_what_is_no_split_file(tmp_path, text, user_error):
    (tmp_path / "mine.json").write_text(text)
    assert "expected JSON of the form" in user_error(read_split, str(tmp_path / "mine.json"))


def test_a_name_twice_and_a_wrong_hash(tmp_path, user_error):
    assert "(scene3)" in user_error(read_split, write_split(tmp_path / "a.json", test=["scene3"]))
    assert "names were changed" in user_error(read_split, write_split(tmp_path / "b.json", sha256="0"))


def test_an_unknown_split(tmp_path, user_error):
    message = user_error(read_split, "roadscen")
    assert "auto, hash, lists, roadscene" in message
    assert "Did you mean 'roadscene'?" in message
    assert "no such split" in user_error(read_split, str(tmp_path / "missing.json"))


def test_fingerprint_is_that_of_the_canonical_json():
    text = '{"test":["b","c"],"train":["a"],"val":[]}'
    parts = {"train": ["a"], "val": [], "test": ["c", "b"]}
    assert split_fingerprint(parts) == hashlib.sha256(text.encode()).hexdigest()
    assert split_fingerprint({**parts, "val": ["d"]}) != split_fingerprint(parts)


# RoadScene


def test_shipped_roadscene_states_its_fingerprint_and_keeps_scenes_apart():
    content = json.loads((REPOSITORY / "src/clipfuse/data/splits/roadscene.json").read_text())
    parts = read_split("roadscene")
    assert content["sha256"] == split_fingerprint(parts)
    assert {part: len(names) for part, names in parts.items()} == {"train": 119, "val": 21, "test": 31}
    part_of = {name: part for part, names in parts.items() for name in names}
    frames = sorted((name.rsplit("_", 1)[0], int(name.rsplit("_", 1)[1]), name) for name in part_of)
    for (prefix, number, name), (next_prefix, next_number, next_name) in pairwise(frames):
        if prefix == next_prefix and next_number - number <= 60:
            assert part_of[name] == part_of[next_name]


# Lists


def test_parts_come_from_lists_of_names(tmp_path):
    lists = {"train.txt": "a\nimages/b.png\n\n", "val.txt": "c.JPG\n", "pred.txt": "some name (1)\n"}
    (tmp_path / "meta").mkdir()
    for name, text in lists.items():
        (tmp_path / "meta" / name).write_text(text.replace("JPG", "jpg"))
    (tmp_path / "meta/other.txt").write_text("x\n")
    expected = {"train": ("a", "b"), "val": ("c",), "test": ("some name (1)",)}
    assert find_lists("lists", tmp_path) == expected
    assert find_lists(str(tmp_path / "meta"), tmp_path / "elsewhere") == expected
    assert find_lists("auto", tmp_path) is None
    assert find_lists("roadscene", tmp_path) is None


def test_lists_that_are_missing_or_name_a_pair_twice(tmp_path, user_error):
    found = user_error(find_lists, "lists", tmp_path)
    assert (
        f"neither {tmp_path} nor {tmp_path / 'meta'} holds a list of names; expected some of train.txt"
        in found
    )
    (tmp_path / "train.txt").write_text("a\nb\n")
    (tmp_path / "test.txt").write_text("b\n")
    found = user_error(find_lists, "lists", tmp_path)
    assert found.endswith(f"'b' is listed twice, before in {tmp_path / 'test.txt'}; keep one line")
