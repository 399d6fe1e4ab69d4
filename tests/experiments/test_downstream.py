import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from experiments.downstream import study
from experiments.downstream.answers import balanced, in_words, predictors

from clipfuse.comparison.scores import Scores
from clipfuse.comparison.statistics import Estimate
from clipfuse.metrics.verdict import FAMILIES

SCENES = 6


def scores(name: str, rows: list[list[float]], higher_is_better: bool = True) -> Scores:
    """Return a metric of rows, each given by the level of its runs, a little higher in each later scene."""
    by_scene = [
        np.array([[level + 0.001 * scene for scene in range(SCENES)] for level in row]) for row in rows
    ]
    whole = np.ones(SCENES, dtype=bool)
    return Scores(name, higher_is_better, whole, by_scene, by_scene, np.full(SCENES, 1 / SCENES), whole)


def metrics(levels: Mapping[str, list[list[float]]]) -> dict[str, Scores]:
    return {name: scores(name, rows) for name, rows in levels.items()}


def test_balanced_gives_each_family_one_vote_and_ranks_within_scenes() -> None:
    names = [each for members in FAMILIES.values() for each in members][:4]
    better = [[3.0, 3.1], [2.0, 2.1], [1.0]]
    worse = [[1.0, 1.1], [2.0, 2.1], [3.0]]
    found = balanced(
        metrics(dict(zip(names, (better, better, better, worse), strict=True))),
        [2, 2],
        np.full(SCENES, 1 / SCENES),
    )
    assert found is not None
    assert found.name == "balanced-1"
    assert not found.higher_is_better
    first, second, third = (float(np.mean(each)) for each in found.by_scene)
    # Among 4 runs, a loss ranks 1.5, 3.5 in three families and the reverse in one; the fusion 4.5 or 0.5.
    assert (first, second, third) == pytest.approx((2.0, 3.0, 3.5), abs=1e-12)
    assert balanced(metrics({"EN": better}), [2, 2], np.full(SCENES, 1 / SCENES)) is None


def test_a_predictor_that_orders_as_the_machine_is_found_and_one_that_opposes_it_too() -> None:
    machine = scores("mIoU", [[1.0, 1.01], [2.0, 2.01], [3.0], [4.0], [5.0]])
    tried = {
        "same": scores("same", [[10.0, 10.1], [20.0, 20.1], [30.0], [40.0], [50.0]]),
        "error": scores(
            "error", [[10.0, 10.1], [20.0, 20.1], [30.0], [40.0], [50.0]], higher_is_better=False
        ),
    }
    lines = {line[0]: line[1:] for line in predictors(tried, machine, [2, 2])}
    assert lines == {"same": ["+1.00", "[+1.00, +1.00]", "yes"], "error": ["-1.00", "[-1.00, -1.00]", "yes"]}


def test_words_are_corrected_over_the_table() -> None:
    def estimate(value: float) -> Estimate:
        return Estimate(value, 1.0, 0.0, 1000.0)  # p of a normal law

    alone = in_words([estimate(2.5)])  # p = 0.013
    assert ", clearly; " in alone[0]
    among = in_words([estimate(2.5), *(estimate(0.1) for _ in range(9)), None])
    assert ", not found; " in among[0]  # Holm 0.13, Benjamini and Hochberg 0.13
    assert among[-1] == "not measured"
    three = in_words([estimate(value) for value in (2.3, 2.25, 2.2)])  # p = 0.022, 0.025, 0.028
    assert all(", likely; " in text for text in three)  # Holm 0.064
    assert three[0].startswith("+2.30 [+0.34, +4.26]")


def test_a_study_is_kept_a_loss_at_a_time_and_takes_plain_sources_from_the_first(tmp_path: Path) -> None:
    out, machine = tmp_path / "msrs", "downstream/segmentation/metrics.json"
    for folder in ("samples/pixel/0", "samples/task/0", "samples/downstream-sources/both", "trials/pixel/0"):
        (out / folder / machine).parent.mkdir(parents=True)
        (out / folder / machine).write_text(folder)
        (out / folder / "config.yaml").write_text("root: /elsewhere/msrs")
    study.save(out, tmp_path / "kept", msrs="/elsewhere/msrs", losses=["pixel"])
    with zipfile.ZipFile(tmp_path / "kept/msrs/pixel.zip") as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {"pixel", "downstream-sources"}
        assert archive.read("pixel/0/config.yaml") == b"root: data/msrs"
    assert not (tmp_path / "kept/msrs/task.zip").exists()
    assert zipfile.ZipFile(tmp_path / "kept/msrs_trials/pixel.zip").namelist() == ["pixel/0/config.yaml"]

    study.restore_plain(tmp_path / "new/msrs", [tmp_path / "kept/msrs_trials/pixel.zip"])  # it has none
    assert not (tmp_path / "new").exists()
    study.restore_plain(tmp_path / "new/msrs", sorted((tmp_path / "kept").rglob("*.zip")))
    kept = [file for file in (tmp_path / "new").rglob("*") if file.is_file()]
    assert {
        file.parents[len(machine.split("/")) - 1].name for file in kept if file.name == "metrics.json"
    } == {"both"}
    assert not (tmp_path / "new/msrs/samples/pixel").exists()
