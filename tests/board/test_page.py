"""The page, its drawings and images, and what a folder gives to it."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.comparison.conftest import write as judge

from clipfuse.board.album import PER_SET, find_images, make_album, slug
from clipfuse.board.drawings import draw_costs, pareto
from clipfuse.board.gathering import gather
from clipfuse.board.page import overview, page, summary
from clipfuse.board.results import About, Degradation, Entry, to_record
from clipfuse.board.standings import build_standings
from clipfuse.comparison.album import Album

Make = Callable[..., Entry]
HOSTILE = '</script><img src=x onerror="alert(1)">$x^2$'


def test_the_page_holds_all_and_no_name_is_markup(entry: Make) -> None:
    degraded = Degradation("degraded-1", "haze", 3)
    entries = [entry(HOSTILE, 1.0, about=About(18_000, 0.2, HOSTILE)), entry("b", about=About(100, 0.1))]
    entries += [replace(each, degradation=degraded) for each in entries] + [entry("trivial:average")]
    entries += [entry("b", set="other"), entry("c", set="other")]
    standings = build_standings(entries)
    album = Album({f"road: {HOSTILE}": {HOSTILE: "data:,", "b": "data:,"}}, "one")
    text = page(standings, (), album, [f"Left out: {HOSTILE}"], f"clipfuse board '{HOSTILE}'")
    assert "<img src=x" not in text
    assert text.count("<script") == 2  # the data and the program
    assert text.count("</script>") == 2
    assert set(re.findall(r"<(?:img|link|iframe|object)\b[^>]*", text)) <= {
        *('<link rel="icon" href="data:,"', '<img id="under" alt=""', '<img id="over" alt=""')
    }
    assert "://" not in re.sub(r'xmlns(?::\w+)?="[^"]+"', "", text)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert data["losses"] == [HOSTILE, "b", "c", "trivial:average"] or HOSTILE in data["losses"]
    for part in ("What degraded pairs cost", "haze", "Quality against time and size", "Wins per scene"):
        assert part in text
    tables, lines = overview(standings)["strict-2"]
    assert [each.title for each in tables] == ["other", "road"]
    means = {line.method: line.mean for line in lines}
    assert means["c"] is None  # it lacks a set
    places = [each.place("b") for each in tables]
    shares = [place.rank / count for place, count in zip(places, (2, 3), strict=True) if place]
    assert means["b"] == pytest.approx(sum(shares) / 2)
    printed = "\n".join(summary(standings, (), ["a note"]))
    assert "road by strict-2: 24 images of 12 scenes" in printed


def test_the_front_is_what_nothing_is_both_cheaper_and_better_than() -> None:
    points = [(0, 1.0, 3.0), (1, 2.0, 3.5), (2, 3.0, 1.0), (3, 4.0, 1.0), (4, 0.5, 4.0), (5, 1.0, 2.5)]
    slow = [
        one
        for one in points
        if not any(other[1] <= one[1] and other[2] <= one[2] and other[1:] != one[1:] for other in points)
    ]
    assert pareto(points) == sorted(slow, key=lambda each: each[1])


def test_without_costs_there_is_no_drawing_of_them(entry: Make) -> None:
    (standing,) = build_standings([entry("a", about=About(seconds=1.0)), entry("b")])
    assert draw_costs(standing, "x") is None


def write_images(folder: Path, names: list[str], level: int) -> None:
    folder.mkdir(parents=True)
    for name in names:
        Image.fromarray(np.full((16, 20), level, np.uint8)).save(folder / f"{name}.png")


def test_images_are_found_by_set_and_method(entry: Make, tmp_path: Path) -> None:
    names = [f"image{place}" for place in range(10)] + ["strange"]
    for place, word in enumerate(("infrared", "visible", slug("<a b>"))):
        write_images(tmp_path / "road" / word, names, 50 * place)
    (tmp_path / "road" / slug("<a b>") / "image0.png").write_bytes(b"no image")
    shown = find_images([tmp_path], [entry("<a b>"), entry("c")])
    album = make_album(shown, ["<a b>", "c"])
    assert len(album.uris) == PER_SET
    assert "road: strange" not in album.uris
    assert list(album.uris["road: image1"]) == ["infrared", "visible", "<a b>"]
    assert "1 images cannot be read" in album.note


def test_run_folders_are_checked_as_compare_does(
    sweeps: Callable[..., Callable[..., Path]], tmp_path: Path
) -> None:
    """One training under two seeds is one, and runs that differ in more than their loss are said to."""
    write = sweeps(tmp_path)
    scores = {"SSIM": [1.0, 1.1, 1.2, 1.3], "VIF": [0.5, 0.6, 0.7, 0.8]}
    images = ["a", "b", "c", "d"]
    for seed in (0, 1):
        write("pixel", seed, scores=scores, images=images)
    write("ldfusion", images=images, options={"steps": 20})
    found = gather([tmp_path])
    assert [len(each.runs) for each in found.entries] == [1, 1]
    notes = "\n".join(found.notes)
    assert "to the last bit, so that seeds 0 and 1 of 'pixel' are one training." in notes
    assert "Run folders of one table are no fair comparison: " in notes


def test_a_folder_gives_results_runs_and_what_machines_see(
    entry: Make, sweeps: Callable[..., Callable[..., Path]], tmp_path: Path, user_error: Callable[..., str]
) -> None:
    root = tmp_path / "all"
    write = sweeps(root / "sweep")
    for loss in ("pixel", "ldfusion"):
        for seed in (0, 1):
            write(loss, seed, level=float(loss == "pixel"), folder=f"{loss}{seed}", pictures=16)
            judge(root / "sweep" / f"{loss}{seed}")
    judge(root / "downstream-sources/infrared")
    judge(root / "theirs", task="detection")
    (root / "results/images/road").mkdir(parents=True)
    (root / "results/a.json").write_text(json.dumps(to_record([entry("a"), entry("b")])))
    (root / "degradation.json").write_text("{}")
    found = gather([root])
    assert {each.method for each in found.entries} == {"a", "b", "pixel", "ldfusion"}
    assert [path.name for path in found.images] == ["images"]
    assert {each.task: set(each.rows) for each in found.seen} == {
        "segmentation": {"pixel", "ldfusion", "infrared"},
        "detection": {"theirs"},
    }
    standings = build_standings(found.entries)
    runs = next(each for each in standings if "split 4bcf" in each.set)
    assert [len(each.runs) for each in runs.entries] == [2, 2]
    assert runs.entries[0].method == "pixel"
    assert not any("no fair comparison" in note for note in found.notes)
    album = make_album(find_images(found.images, found.entries), ["pixel"])
    assert "pixel" in next(iter(album.uris.values()))
    text = page(standings, found.seen, album, found.notes, "clipfuse board")
    assert "detection by retrained-1" in text
    assert "mIoU ↑" in text
    (root / "results/odd.json").write_text("[]")
    assert "odd.json: expected a mapping" in user_error(gather, [root])
    (tmp_path / "empty").mkdir()
    assert "holds no result; expected files of clipfuse score --json" in user_error(
        gather, [tmp_path / "empty"]
    )
