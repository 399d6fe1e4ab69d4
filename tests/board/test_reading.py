"""Files of results: written, read, refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from math import isnan, nan
from pathlib import Path
from typing import Any

import pytest
import torch

from clipfuse.board.reading import find_degradation, read_entries
from clipfuse.board.results import About, Degradation, Entry, digest, file_name, to_record

Make = Callable[..., Entry]


def test_a_file_holds_all_but_the_last_digits(entry: Make, tmp_path: Path) -> None:
    mine = entry(about=About(18_323, 0.03, "one thread"), degradation=Degradation("degraded-1", "noise", 2))
    mine.runs[0]["EN"]["image3"] = nan
    other = replace(entry("<b>other</b>"), degradation=mine.degradation)
    path = tmp_path / file_name(mine)
    assert path.name == "mine@road@noise-2.json"
    path.write_text(json.dumps(to_record([mine, other])))
    found = read_entries(path)
    assert [each.method for each in found] == ["mine", "<b>other</b>"]
    assert found[0].about == mine.about
    assert found[1].about == About()
    for one, back in zip((mine, other), found, strict=True):
        assert replace(back, runs=(), about=one.about, source=one.source) == replace(one, runs=())
        for name, scores in one.runs[0].items():
            for image, score in scores.items():
                read = back.runs[0][name][image]
                assert isnan(read) if isnan(score) else read == pytest.approx(score, rel=5e-6)  # six digits


def broken(content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**content, **changes}.items() if value is not ...}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {"a": 1}, 'is no result of clipfuse score (expected "format": "clipfuse-score")'),
        (
            lambda c: {"protocol": "strict-2", "methods": {}, "images": 3},
            "is an older result, of means alone",
        ),
        (lambda c: broken(c, version=2), "has version 2 of the form, this ClipFuse reads up to 1; update it"),
        (lambda c: broken(c, version="1"), "version is '1', expected a whole number"),
        (lambda c: broken(c, pairs={"a": {"pair": "0" * 16}}), "image 'a' has no scene"),
        (lambda c: broken(c, pairs={"a": {"scene": "a", "pair": "x"}}), "pairs.a.pair is 'x'"),
        (lambda c: broken(c, set=...), "has no 'set'"),
        (lambda c: broken(c, scores={}), "scores is {}"),
        (
            lambda c: broken(c, scores={"mine": {"EN": [1.0]}}),
            "EN of 'mine' has 1 values, expected one",
        ),
        (lambda c: broken(c, scores={"mine": {"odd": [1.0] * 24}}), "odd of 'mine' is not among its metrics"),
        (lambda c: broken(c, scores={"mi\x1bne": {}}), "cannot be printed"),
        (lambda c: broken(c, scores={"visible": {}}), "the method 'visible' is called as a source"),
        (lambda c: broken(c, methods={"mine": {"EN": 9.0}}), "was changed: it states EN 9 of 'mine'"),
        (
            lambda c: broken(c, metrics={**c["metrics"], "MSE": "higher"}),
            "metrics.MSE is 'higher', expected 'lower'",
        ),
        (lambda c: broken(c, about={"mine": {"seconds": -1.0}}), "about.mine.seconds is -1.0"),
        (lambda c: broken(c, pairs={"../x": {"scene": "a", "pair": "0" * 16}}), "would leave its folder"),
    ],
)
def test_what_is_no_result_is_one_line(
    entry: Make, tmp_path: Path, user_error: Callable[..., str], change: Callable[..., Any], message: str
) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(change(to_record([entry()]))))
    found = user_error(read_entries, path)
    assert message in found
    assert "\n" not in found


def test_digests_know_values_and_sizes_and_not_how_gray_is_stored() -> None:
    gray = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 4)
    assert digest(gray) == digest(gray.expand(3, -1, -1))
    assert digest(gray) != digest(gray.reshape(1, 4, 3))
    assert digest(gray, gray) != digest(gray, gray + 1)


def test_the_record_of_degraded_pairs_lies_beside_or_above_them(
    tmp_path: Path, user_error: Callable[..., str]
) -> None:
    bands = tmp_path / "out/ir", tmp_path / "out/vi"
    for band in bands:
        band.mkdir(parents=True)
    assert find_degradation(*bands) is None
    record = {"protocol": "degraded-1", "kind": "haze", "strength": 3, "bands": ["visible"], "set": "road"}
    (tmp_path / "out/degradation.json").write_text(json.dumps(record))
    assert find_degradation(*bands) == (Degradation("degraded-1", "haze", 3), "road")
    assert find_degradation(bands[0] / "1.png", tmp_path / "out") == find_degradation(*bands)
    for other in (record | {"strength": 2}, record | {"set": "street"}, None):
        (tmp_path / "other/vi").mkdir(parents=True, exist_ok=True)
        if other:
            (tmp_path / "other/degradation.json").write_text(json.dumps(other))
        else:
            (tmp_path / "other/degradation.json").unlink()
        for places in ((bands[0], tmp_path / "other/vi"), (tmp_path / "other/vi", bands[1])):
            assert "expected both bands of one kind and strength" in user_error(find_degradation, *places)
    assert "is haze 3 by degraded-1 of the set 'road' but" in user_error(
        find_degradation, bands[0], tmp_path / "other/vi"
    )
    assert f"such as {tmp_path / 'out'}; name one of these" in user_error(find_degradation, tmp_path)
    (tmp_path / "out/degradation.json").write_text("{}")
    assert "has no 'protocol'" in user_error(find_degradation, *bands)
