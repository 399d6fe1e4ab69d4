"""Images with other names, images that are there twice, and metrics of unlike directions."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from clipfuse.board.album import find_images, slugs
from clipfuse.board.matching import counted_once, with_one_direction, with_one_name
from clipfuse.board.results import Degradation, Entry, Pair
from clipfuse.board.standings import build_standings

Make = Callable[..., Entry]


def renamed(entry: Entry) -> Entry:
    """The same result with other names, in another order of the names."""
    names = {name: f"frame{len(entry.pairs) - place}" for place, name in enumerate(entry.pairs)}
    runs = [
        {metric: {names[name]: score for name, score in scores.items()} for metric, scores in run.items()}
        for run in entry.runs
    ]
    return replace(entry, pairs={names[name]: pair for name, pair in entry.pairs.items()}, runs=runs)


def test_images_of_one_digest_get_one_name_and_keep_their_scores(entry: Make) -> None:
    one, other = entry("a"), entry("b")
    assert with_one_name([one, renamed(other), entry("c", set="street")]) == [
        *(one, other, entry("c", set="street"))
    ]
    names = with_one_name([renamed(other), one])[1].pairs
    assert list(names) == list(renamed(other).pairs)


def test_other_names_of_the_same_images_make_one_table(entry: Make) -> None:
    noise = Degradation("degraded-1", "noise", 1, against="clean")
    entries = [entry("a", 1.0), entry("b"), entry("trivial:average")]
    entries += [replace(entry("b", -1.0), degradation=noise)]
    others = [entry("a", 1.0), renamed(entry("b")), renamed(entry("trivial:average"))]
    others += [replace(renamed(entry("b", -1.0)), degradation=noise)]
    expected, found = build_standings(entries)[0], build_standings(others)[0]
    assert [each.method for each in found.entries] == ["a", "b", "trivial:average"]
    assert (found.notes, found.ranked[0].places) == (expected.notes, expected.ranked[0].places)
    assert [drop.costs for drop in found.drops] == [drop.costs for drop in expected.drops]
    (table,) = build_standings([entry("a"), entry("b"), renamed(entry("c", images=30))])
    assert "measured on other images of 'road': 30, of which 24 are among the 24" in " ".join(table.notes)


def test_images_that_are_there_twice_count_as_one_scene(entry: Make) -> None:
    pairs = {name: Pair(name, digest) for name, digest in zip("dcba", ("1", "2", "1", "1"), strict=True)}
    once, note = counted_once(pairs)
    assert {name: pair.scene for name, pair in once.items()} == {"a": "a", "b": "a", "c": "c", "d": "a"}
    assert list(once) == list(pairs)
    assert note is not None
    assert "2 images are copies of another one under its own name" in note
    assert note.endswith("'d' of 'a', 'b' of 'a'.")
    assert counted_once({"a": Pair("s", "1"), "b": Pair("s", "2")})[1] is None

    def twice(method: str) -> Entry:
        made = entry(method, scenes=24, scenes_from="names")
        copies = {name: f"{place // 2:016x}" for place, name in enumerate(made.pairs)}
        return replace(made, pairs={n: replace(p, pair=copies[n]) for n, p in made.pairs.items()})

    (table,) = build_standings([twice("a"), twice("b")])
    assert (table.images, table.scenes) == (24, 12)
    assert table.ranked[0].scenes == 12
    assert "12 images are copies of another one under its own name" in " ".join(table.notes)
    assert "unlike scenes" not in " ".join(table.notes)


def test_a_metric_of_opposite_directions_is_left_out_and_named(entry: Make) -> None:
    own = {"mine.score": True, "EN": True}
    entries = [entry("a", metrics=own), entry("b", metrics={**own, "mine.score": False})]
    kept, notes = with_one_direction([*entries, entry("c", set="street", metrics=own)])
    assert [list(each.runs[0]) for each in kept] == [["EN"], ["EN"], ["mine.score", "EN"]]
    (note,) = notes["strict-2", "road"]
    assert "the metric 'mine.score': higher is better by a.json, lower is better by b.json" in note
    assert notes["strict-2", "street"] == []
    (table,) = build_standings(entries)
    assert [column.name for column in table.columns] == ["EN"]
    assert note in table.notes
    # Of a degraded set, and where nothing else is left.
    alone = [entry("a", metrics={"mine.score": True}), entry("b", metrics={"mine.score": False})]
    noise = Degradation("degraded-1", "noise", 1)
    clean, worse = build_standings([alone[0], replace(alone[1], degradation=noise, method="a")])
    assert [clean.columns, clean.drops, worse.columns] == [[], [], []]


def test_each_method_has_a_folder_of_its_own(entry: Make, tmp_path: Path) -> None:
    assert slugs(["a b", "a-b", "a/b", "a-b-2", "c", "infrared"]) == {
        **{"a-b": "a-b", "a-b-2": "a-b-2", "c": "c", "infrared": "infrared-2"},
        **{"a b": "a-b-3", "a/b": "a-b-4"},
    }
    for level, folder in enumerate(("infrared", "visible", "a-b", "a-b-2")):
        (tmp_path / "road" / folder).mkdir(parents=True)
        Image.fromarray(np.full((4, 5), level, np.uint8)).save(tmp_path / "road" / folder / "image0.png")
    shown = find_images([tmp_path], [entry("a b"), entry("a-b")])["road"]
    levels = {word: np.asarray(images["image0"]()).max() for word, images in shown.items()}
    assert levels == {"infrared": 0, "visible": 1, "a-b": 2, "a b": 3}


def test_images_of_other_names_are_shown_under_one(entry: Make, tmp_path: Path) -> None:
    for folder, name in (("infrared", "image0"), ("a", "image0"), ("b", "frame24")):
        (tmp_path / "road" / folder).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "road" / folder / f"{name}.png")
    shown = find_images([tmp_path], [entry("a"), renamed(entry("b"))])["road"]
    assert {word: list(images) for word, images in shown.items()} == {
        **{"infrared": ["image0"], "a": ["image0"], "b": ["image0"]}
    }
