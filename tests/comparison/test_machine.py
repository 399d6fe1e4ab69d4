"""Downstream results in `clipfuse compare`: columns, rows, families, gaps, and what does not compare."""

import csv
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipfuse.comparison.assemble import Comparison, assemble, gather
from clipfuse.comparison.collect import find_runs
from clipfuse.comparison.machine import find_plain
from clipfuse.comparison.variants import select

Factory = Callable[..., Path]
Command = Callable[..., tuple[int, str, str]]
PLAIN = {"infrared": 0.5, "visible": 0.6, "average": 0.62, "maximum": 0.61, "both": 0.9}
BALANCED = ("kept-information", "kept-structure", "local-detail", "clean-detail")


def build(
    root: Path, sweep: Factory, judge: Factory, tasks: tuple[str, ...] = ("segmentation",), **options: Any
) -> Path:
    """Two losses with three seeds each, of which ldfusion serves the machine better."""
    names = ("SSIM", *BALANCED)
    for loss, right in (("pixel", 0.6), ("ldfusion", 0.75)):
        for seed in range(3):
            scores = {n: [0.1 * image + 0.01 * seed + len(loss) for image in range(6)] for n in names}
            sweep(loss, seed=seed, folder=f"{loss}/{seed}", scores=scores, **options)
            for task in tasks:
                judge(root / loss / str(seed), right + 0.01 * seed, task=task)
    for name, right in PLAIN.items():
        for task in tasks:
            judge(root / "downstream-sources" / name, right, task=task)
    return root


@pytest.fixture
def root(sweep: Factory, judge: Factory, tmp_path: Path) -> Path:
    return build(tmp_path / "sweep", sweep, judge)


def compared(*folders: Path, **options: Any) -> Comparison:
    runs, notes = select(find_runs(folders), partial=False)
    plain, unreadable = find_plain(folders, runs)
    return assemble(gather(runs, [*notes, *unreadable], plain=plain, **options))


def test_columns_and_plain_rows(root: Path) -> None:
    found = compared(root)
    assert [column.name for column in found.numbers.columns][-2:] == ["mIoU", "mIoU_foreground"]
    rows = {row.name: row for row in found.numbers.rows}
    assert list(rows) == ["ldfusion", "pixel", *PLAIN]
    runs = {run.label: run for run in found.material.tested}
    scores = [
        [each.evidence.scores(np.ones((1, 6)))["mIoU"][0] for each in runs[f"pixel/{seed}"].judged]
        for seed in range(3)
    ]
    cell = rows["pixel"].cells["mIoU"]
    assert cell.mean == pytest.approx(sum(map(sum, scores)) / 6, abs=1e-9)  # both are sums of float64
    assert cell.low < cell.mean < cell.high
    assert rows["ldfusion"].cells["mIoU"].place == 1
    assert rows["both"].rank is None
    assert (rows["both"].kind, rows["infrared"].kind) == ("both bands", "trivial")
    difference = found.numbers.differences["ldfusion", "pixel"]["mIoU"]
    assert difference.word == "clearly"
    assert difference.better == 1
    records = [record for record in found.table if record["metric"] == "mIoU"]
    assert {record["protocol"] for record in records} == {"retrained-1"}
    assert {record["method"] for record in records} == set(rows)
    assert {record["protocol"] for record in found.table if record["metric"] == "SSIM"} == {"strict-2"}
    text = str(found)
    assert "mIoU, mIoU_foreground: segmentation by retrained-1, mean over task seeds 0, 1" in text
    assert "trivial fusions: infrared, visible, average, maximum\n" in text
    assert "both: both bands fed to the task network as channels, without fusion" in text
    assert "- segmentation by retrained-1: task seeds 0, 1, 6 test images of 6 scenes, 4 classes" in text
    assert "mIoU" in found.text("latex")
    assert "mIoU" in found.text("markdown")


def test_gaps_in_a_sentence_each(root: Path) -> None:
    found = compared(root)
    (seen,) = found.numbers.seen
    assert seen.band == "visible"
    best = "To a machine 'ldfusion', the best loss by mIoU, segmentation by retrained-1, is "
    loss, gained = [sentence for sentence in found.sentences if sentence.startswith("To a machine")]
    rows = {row.name: row.cells["mIoU"].mean for row in found.numbers.rows}
    below, above = rows["both"] - rows["ldfusion"], rows["ldfusion"] - rows["visible"]
    assert loss.startswith(f"{best}{below:.2f} below both bands fed to the task network (95 % interval -")
    assert gained.startswith(f"{best}{above:.2f} above visible, the better single band (95 % interval +")


def test_no_gap_has_an_interval_from_one_task_seed(root: Path, judge: Factory) -> None:
    for folder in (*root.glob("[lp]*/*"), *root.glob("downstream-sources/*")):
        judge(folder, 0.9 if folder.name == "both" else 0.7, seeds=(0,))
    (sentence,) = [each for each in compared(root).sentences if "both bands" in each]
    assert sentence.endswith(", with no interval: this takes two fusion seeds and two task seeds.")


def test_task_seeds_that_favour_a_loss_are_stated(root: Path) -> None:
    (seen,) = compared(root).numbers.seen
    known = seen.crossed["mIoU"]
    first, *others = known.values
    assert first is not None
    moved = replace(known, values=[first + np.array([30.0, -30.0])[:, None], *others])
    *gaps, sentence = replace(seen, crossed={**seen.crossed, "mIoU": moved}).sentences()
    assert len(gaps) == 2
    assert sentence.startswith("task seeds favour some losses in mIoU, segmentation by retrained-1 (p 0.0")
    assert sentence.endswith("): its intervals are too narrow, which more task seeds mend.")


def test_day_and_night_and_absent_classes(root: Path) -> None:
    (seen,) = compared(root).numbers.seen
    assert [name for name in seen.overall if name.startswith("mIoU/")] == ["mIoU/day", "mIoU/night"]
    assert seen.crossed["mIoU/day"].scenes == seen.crossed["mIoU/night"].scenes == 3
    assert seen.by_class == ["IoU/none", "IoU/car", "IoU/person", "IoU/bus"]
    assert [seen.cell(name, 0) is None for name in seen.by_class] == [False, False, False, True]


def test_detection_has_its_columns(sweep: Factory, judge: Factory, tmp_path: Path) -> None:
    root = build(tmp_path / "sweep", sweep, judge, tasks=("segmentation", "detection"))
    found = compared(root)
    assert [column.name for column in found.numbers.columns][-4:] == [
        "mIoU",
        "mIoU_foreground",
        "mAP50",
        "mAP",
    ]
    assert len([each for each in found.sentences if each.startswith("To a machine")]) == 4


def test_ranking_with_the_machine_is_a_set_of_its_own(root: Path, user_error: Callable[..., str]) -> None:
    usual, with_it = compared(root), compared(root, verdict_set="balanced+machine")
    assert str(usual.numbers.verdict_set) == "balanced-1"
    assert "downstream" not in usual.numbers.families
    assert with_it.numbers.families["downstream"] == ("mIoU",)
    assert str(with_it.numbers.verdict_set) == "balanced+machine-1"
    # ldfusion is better by all of them, so that nothing but the families changes.
    assert [row.rank for row in with_it.numbers.losses] == [row.rank for row in usual.numbers.losses]
    for folder in root.glob("*/*/downstream"):
        shutil.rmtree(folder)
    assert [row.rank for row in compared(root).numbers.losses] == [row.rank for row in usual.numbers.losses]
    message = user_error(compared, root, verdict_set="balanced+machine")
    assert "the runs lack metrics of balanced+machine-1: mIoU, mAP" in message


def test_other_scenes_than_the_metrics_cannot_rank(
    root: Path, judge: Factory, user_error: Callable[..., str]
) -> None:
    images = [f"other-{index}" for index in range(6)]
    for folder in (*root.glob("[lp]*/*"), *root.glob("downstream-sources/*")):
        judge(folder, 0.7, images=images)
    assert compared(root).numbers.columns[-1].name == "mIoU_foreground"
    message = user_error(compared, root, verdict_set="balanced+machine")
    assert "mIoU was judged on other scenes than the metrics" in message


def test_columns_can_be_chosen(root: Path, user_error: Callable[..., str]) -> None:
    def names(*metrics: str) -> list[str]:
        return [column.name for column in compared(root, metrics=list(metrics)).numbers.columns]

    assert names("SSIM") == ["SSIM"]
    assert names("SSIM", "mIoU") == ["SSIM", "mIoU"]
    assert names("machine") == ["mIoU", "mIoU_foreground"]
    assert names("fast")[-1] not in ("mIoU", "mIoU_foreground")
    assert "mAP" in user_error(names, "mAP")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"protocol": "frozen-1"}, "differ in the protocol: retrained-1 and frozen-1"),
        ({"settings": {"updates": 9}}, "differ in settings.updates: 300 and 9"),
        ({"labels": {"groups": []}}, "differ in labels.groups"),
        ({"labels": {"names": ["none", "car", "person", "truck"]}}, "differ in labels.names"),
        ({"images": [f"test-{index:06d}" for index in range(1, 7)]}, "differ in the test images: test-00000"),
        ({"scenes": ["a"] * 6}, "differ in the scenes of the test images"),
        ({"seeds": (7,)}, "the runs have no task seed of retrained-1 in common"),
    ],
)
def test_what_differs_is_left_out_with_one_note(
    options: dict[str, Any], words: str, root: Path, judge: Factory
) -> None:
    path = root / "ldfusion/2"
    names = options.get("labels", {}).get("names")
    if names:  # the recorded scores are named after the classes
        text = judge(path, **options).read_text().replace("IoU/bus", "IoU/truck")
        (path / "downstream/segmentation/metrics.json").write_text(text)
    else:
        judge(path, **options)
    found = compared(root)
    assert not found.numbers.seen
    assert all("mIoU" not in column.name for column in found.numbers.columns)
    (note,) = [note for note in found.material.notes if "segmentation" in note]
    assert note.startswith("Left out: segmentation: ")
    assert words in note
    assert [row.name for row in found.numbers.rows] == ["ldfusion", "pixel"]


def test_a_run_without_results_is_named(root: Path) -> None:
    shutil.rmtree(root / "pixel/1/downstream")
    notes = compared(root).material.notes
    assert any("segmentation: " in note and "pixel/1 has no result of it" in note for note in notes)


def test_task_seeds_and_plain_sources_that_fit_are_taken(root: Path, judge: Factory) -> None:
    judge(root / "ldfusion/2", 0.77, seeds=(1, 0, 4))
    judge(root / "downstream-sources/average", 0.6, settings={"updates": 9})
    judge(root / "downstream-sources/maximum", 0.6, seeds=(0,))
    judge(root / "downstream-sources/of_another_method", 0.7)
    found = compared(root)
    rows = [row.name for row in found.numbers.rows]
    assert rows == ["ldfusion", "pixel", "infrared", "visible", "both", "of_another_method"]
    assert found.numbers.rows[-1].kind == "given"
    notes = "\n".join(found.material.notes)
    assert "Of segmentation by retrained-1 the task seeds that all runs have are taken: 0, 1." in notes
    assert "Left out: 'average' in segmentation: " in notes
    assert "differ in settings.updates: 300 and 9" in notes
    assert "'maximum' in segmentation: it has no result of retrained-1, task seed 1" in notes


def test_two_protocols_are_two_groups_of_columns(root: Path, judge: Factory) -> None:
    from json import dumps, loads

    for folder in root.glob("[lp]*/*"):
        path = folder / "downstream/segmentation/metrics.json"
        first = loads(path.read_text())
        second = loads(judge(folder, 0.5, protocol="frozen-1").read_text())
        path.write_text(dumps({**first, "results": first["results"] + second["results"]}))
    found = compared(root)
    names = [column.name for column in found.numbers.columns if column.protocol]
    assert names == ["mIoU", "mIoU_foreground", "mIoU (frozen)", "mIoU_foreground (frozen)"]
    assert found.numbers.columns[-1].protocol == "frozen-1"
    with_it = compared(root, verdict_set="balanced+machine")
    assert with_it.numbers.families["downstream"] == ("mIoU", "mIoU (frozen)")


def test_the_command_reads_folders_and_zips_alike(clipfuse: Command, root: Path, tmp_path: Path) -> None:
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", root))
    outputs = [tmp_path / "folder.csv", tmp_path / "zip.csv"]
    for source, output in zip((root, packed), outputs, strict=True):
        code, out, error = clipfuse("compare", str(source), "--csv", str(output))
        assert code == 0, error
        assert "To a machine 'ldfusion'" in out
    assert outputs[0].read_text() == outputs[1].read_text()
    rows = list(csv.DictReader(outputs[0].open()))
    assert {row["method"] for row in rows if row["metric"] == "mIoU"} >= {"both", "infrared", "ldfusion"}
    code, out, _ = clipfuse("compare", str(root), "--plan", "mIoU=2")
    assert code == 0
    assert re.search(
        r"^mIoU: a difference of 2 (needs \d+ seeds of each loss|is not found)", out, flags=re.MULTILINE
    )
    code, out, _ = clipfuse("compare", str(root), "--no-trivial")
    assert code == 0
    assert "| both" not in out
    assert "mIoU" in out
