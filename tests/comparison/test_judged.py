"""Downstream results are read, and refused by name where scores are not what their judgements give."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipfuse.comparison.collect import SPOILED, find_runs
from clipfuse.comparison.judged import read_judged, read_plain
from clipfuse.comparison.zips import open_folder
from clipfuse.downstream.results import Result, add_result
from clipfuse.types import LabelSet

Factory = Callable[..., Path]


def changed(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_results_are_read(judge: Factory, tmp_path: Path) -> None:
    judge(tmp_path, seeds=(0, 3))
    judge(tmp_path, task="detection", protocol="frozen-1", seeds=(5,))
    found = read_judged(tmp_path)
    assert [(each.task, each.protocol, each.seed) for each in found] == [
        *(("segmentation", "retrained-1", seed) for seed in (0, 3)),
        ("detection", "frozen-1", 5),
    ]
    assert found[0].labels.names == ("none", "car", "person", "bus")
    assert found[0].kind == found[1].kind
    assert list(found[0].scenes) == [f"test-{index:06d}" for index in range(6)]
    assert found[0].evidence.absent == {"bus"}
    assert found[2].boxes["test-000000"][0].shape == (4, 5)
    assert read_judged(tmp_path / "nothing") == ()


def test_what_the_writer_writes_is_read(tmp_path: Path) -> None:
    labels = LabelSet(("none", "car"), 0, ((0, 0, 0), (1, 2, 3)), (("night", "N$"),), ("car",))
    image = {"scene": "a", "judgement": {"confusion": [[5, 1], [2, 2]]}}
    iou = [100 * 5 / 8, 100 * 2 / 5]
    scores = {"mIoU": sum(iou) / 2, "IoU/none": iou[0], "IoU/car": iou[1], "mIoU/night": float("nan")}
    known: dict[str, Any] = {"key": "k", "settings": {"updates": 3}, "train_sha256": "1", "test_sha256": "2"}
    result = Result("retrained-1", 4, seconds=1.0, scores=scores, images={"1D": image}, **known)
    add_result(tmp_path, "segmentation", labels, result)
    (found,) = read_judged(tmp_path)
    assert (found.labels, found.seed, found.scenes) == (labels, 4, {"1D": "a"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda c: c["results"][0]["scores"].update(mIoU=50.0),
            "states mIoU 50.0, its judgements of retrained-1",
        ),
        (lambda c: c["results"][0]["scores"].update(mIoU=None), "states mIoU None"),
        (
            lambda c: c["results"][1]["images"]["test-000002"]["judgement"]["confusion"][1].__setitem__(1, 9),
            "was changed: it states mIoU",
        ),
        (
            lambda c: c["results"][0]["images"]["test-000001"]["judgement"]["confusion"].pop(),
            "the confusion of test-000001 is not 4 x 4",
        ),
        (
            lambda c: c["results"][0]["images"]["test-000001"]["judgement"]["confusion"][0].__setitem__(
                0, -1
            ),
            "greater than or equal to 0",
        ),
        (lambda c: c["results"].append(c["results"][0]), "has two results of retrained-1, seed 0"),
        (lambda c: c.update(task="detection"), "task is 'detection', expected 'segmentation'"),
        (lambda c: c["labels"].update(groups=[["x", "(a+)+$"]]), "labels.groups.x is '(a+)+$'"),
        (lambda c: c["labels"].update(background=4), "labels.background is 4, of 4 classes"),
        (lambda c: c["labels"].update(names=["a", "a", "b", "c"]), "has one name twice"),
        (
            lambda c: c["results"][0]["images"].update({"../x": c["results"][0]["images"]["test-000000"]}),
            "../x",
        ),
        (lambda c: c["results"][0].pop("settings"), "has no 'results.0.settings'"),
        (lambda c: c["results"][0].update(images={}), "images"),
    ],
)
def test_a_spoiled_file_leaves_its_run_out_with_one_line(
    change: Callable[[Any], None], words: str, judge: Factory, sweep: Factory
) -> None:
    root = sweep(seed=0, folder="pixel/0")
    sweep(seed=1, folder="pixel/1")
    judge(root / "pixel/0")
    changed(judge(root / "pixel/1"), change)
    good, bad = find_runs([root])
    assert len(good.judged) == 2
    assert bad.status == SPOILED
    assert bad.reason is not None
    assert words in bad.reason
    assert "pixel/1" in bad.reason
    assert "\n" not in bad.reason


def test_boxes_of_no_class_are_refused(
    judge: Factory, tmp_path: Path, user_error: Callable[..., str]
) -> None:
    path = judge(tmp_path, task="detection")
    changed(
        path, lambda c: c["results"][0]["images"]["test-000000"]["judgement"]["objects"][0].__setitem__(4, 7)
    )
    assert "a box of test-000000 has a class that is not 0 to 3" in user_error(read_judged, tmp_path)
    changed(path, lambda c: c["results"][0]["images"]["test-000000"].update(judgement={"confusion": []}))
    assert "test-000000 has no boxes" in user_error(read_judged, tmp_path)


def test_a_link_out_of_the_run_is_not_read(judge: Factory, sweep: Factory, tmp_path: Path) -> None:
    root = sweep(folder="pixel/0")
    sweep(folder="pixel/1", seed=1)
    outside = judge(tmp_path / "elsewhere")
    (root / "pixel/0/downstream/segmentation").mkdir(parents=True)
    (root / "pixel/0/downstream/segmentation/metrics.json").symlink_to(outside)
    assert find_runs([root])[0].status == SPOILED


def test_plain_sources_are_found_in_folders_and_zips(judge: Factory, sweep: Factory, tmp_path: Path) -> None:
    root = sweep(folder="pixel/0")
    for name in ("other", "both", "infrared"):
        judge(root / "downstream-sources" / name)
    bad = judge(root / "downstream-sources/visible")
    changed(bad, lambda c: c.update(task="x"))
    run = root / "pixel/0"
    found, notes = read_plain([root], [run.resolve()])
    assert list(found) == ["infrared", "both", "other"]
    assert len(notes) == 1
    assert "downstream-sources/visible" in notes[0]
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", root))
    for sweep_, inside in ((packed, open_folder(packed) / "pixel" / "0"), (tmp_path, run.resolve())):
        again, _ = read_plain([sweep_], [inside])
        assert list(again) == list(found)
        scores = [each["both"][0].evidence.scores(np.ones((1, 6)))["mIoU"] for each in (found, again)]
        assert scores[0] == scores[1]
    assert read_plain([run.parent], [run.resolve()]) == ({}, [])  # a sweep was named that has none
