"""The files of results: read as written, one for each protocol, seed and settings, spoiled ones named."""

import json
from dataclasses import replace
from math import isnan, nan
from pathlib import Path
from typing import Any

import pytest
import torch

from clipfuse.downstream.results import (
    Result,
    add_result,
    known_results,
    predicted_file,
    read_results,
    result_key,
    results_file,
    shown_judgements,
    write_predicted,
)
from clipfuse.types import LabelSet

LABELS = LabelSet(("sky", "car"), None, ((0, 0, 0), (9, 8, 7)), (("night", "N$"),))
IMAGES: dict[str, dict[str, Any]] = {"1N": {"scene": "a", "judgement": {"confusion": [[3, 1], [0, 2]]}}}
RESULT = Result(
    "retrained-1", 0, "k", {"updates": 2}, "t", "s", 1.5, {"mIoU": 50.0, "none": nan}, IMAGES, "o"
)


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_results(tmp_path, "segmentation") is None
    add_result(tmp_path, "segmentation", LABELS, RESULT)
    found = read_results(tmp_path, "segmentation")
    assert found is not None
    labels, (read,) = found
    assert labels == LABELS
    assert isnan(read.scores["none"])
    assert replace(read, scores={}) == replace(RESULT, scores={})
    assert "NaN" not in results_file(tmp_path, "segmentation").read_text()


def test_another_seed_protocol_or_setting_stands_beside_it(tmp_path: Path) -> None:
    others = [replace(RESULT, seed=1), replace(RESULT, protocol="frozen-1")]
    others.append(replace(RESULT, settings={"updates": 3}))
    for each in [RESULT, *others, replace(RESULT, key="new")]:
        add_result(tmp_path, "segmentation", LABELS, each)
    kept = known_results(tmp_path, "segmentation", LABELS)
    assert [each.key for each in kept] == ["k", "k", "k", "new"]


def test_results_for_other_labels_are_not_lost_unasked(tmp_path: Path, user_error: Any) -> None:
    add_result(tmp_path, "segmentation", LABELS, RESULT)
    other = replace(LABELS, names=("sky", "bus"))
    line = user_error(add_result, tmp_path, "segmentation", other, RESULT)
    assert "holds results for other classes (sky, car" in line
    assert "overwrite=true" in line
    assert len(known_results(tmp_path, "segmentation", LABELS)) == 1
    add_result(tmp_path, "segmentation", other, RESULT, overwrite=True)
    assert len(known_results(tmp_path, "segmentation", other)) == 1


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("task",), "detection", "its task is 'detection'"),
        (("labels",), {}, "names"),
        (("results",), {}, "results"),
        (("results", 0, "seed"), "zero", "results.0.seed"),
        (("results", 0, "images", "1N"), {"scene": "a"}, "judgement"),
    ],
)
def test_a_spoiled_file_is_named(
    place: tuple[Any, ...], value: Any, words: str, tmp_path: Path, user_error: Any
) -> None:
    add_result(tmp_path, "segmentation", LABELS, RESULT)
    file = results_file(tmp_path, "segmentation")
    content = node = json.loads(file.read_text())
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    file.write_text(json.dumps(content))
    line = user_error(read_results, tmp_path, "segmentation")
    assert str(file) in line
    assert words in line


def test_the_key_holds_all_that_decides_the_numbers() -> None:
    given: dict[str, Any] = {"task": "segmentation", "labels": LABELS, "protocol": "p", "settings": {"a": 1}}
    given |= {"seed": 0, "train_sha256": "t", "test_sha256": "s"}
    other = {"task": "x", "labels": replace(LABELS, background=0), "protocol": "x", "settings": {}}
    other |= {"seed": 1, "train_sha256": "x", "test_sha256": "x"}
    keys = {result_key(**given), *(result_key(**{**given, name: value}) for name, value in other.items())}
    assert len(keys) == 1 + len(given)
    assert result_key(**given) == result_key(**given)


def test_maps_are_kept_as_index_images(tmp_path: Path) -> None:
    found = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    write_predicted(predicted_file(tmp_path, "segmentation", "retrained-1", 0, RESULT.settings, "1N"), found)
    shown = shown_judgements(tmp_path, "segmentation", RESULT)
    assert shown["1N"]["map"].equal(found)
    assert shown["1N"]["confusion"] == IMAGES["1N"]["judgement"]["confusion"]
    luma = replace(RESULT, settings={**RESULT.settings, "input": "luma"})
    write_predicted(predicted_file(tmp_path, "segmentation", "retrained-1", 0, luma.settings, "1N"), found.T)
    assert shown_judgements(tmp_path, "segmentation", RESULT)["1N"]["map"].equal(found)
    assert shown_judgements(tmp_path, "segmentation", luma)["1N"]["map"].equal(found.T)
