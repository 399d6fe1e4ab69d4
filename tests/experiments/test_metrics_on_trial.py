import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from experiments.metrics_on_trial import trial
from experiments.metrics_on_trial.fusions import (
    DEGRADATIONS,
    add_noise,
    blur,
    degenerate,
    degrade,
    equalise,
    honest,
    plain_sum,
    stretch,
)

from clipfuse.data.synthetic import SyntheticPairs
from clipfuse.data.transforms import whole
from clipfuse.ops.depth import to_bytes, to_unit


def test_fusions_are_what_they_are_called() -> None:
    batch = whole(SyntheticPairs(size=72).load("train-000000"))
    infrared, visible = (to_unit(to_bytes(band)) for band in (batch.infrared, batch.visible))
    found = degenerate(infrared, visible, 0)
    assert len(found) >= 21
    for name, plane in {**found, **honest(infrared, visible, {})}.items():
        assert plane.shape == infrared.shape, name
        assert plane.equal(to_unit(to_bytes(plane))), name
    assert found["infrared"].equal(infrared)
    assert found["checkerboard"][0, 0, 3, 12] == visible[0, 0, 3, 12]
    assert found["checkerboard"][0, 0, 12, 12] == infrared[0, 0, 12, 12]
    half = found["left infrared, right visible"]
    assert half[..., :36].equal(infrared[..., :36])
    assert half[..., 36:].equal(visible[..., 36:])
    assert len(torch.unique(found["pyramid, JPEG 10"] - found["pyramid, noise 10"])) > 10
    flat = torch.full((1, 1, 72, 72), 0.5)
    assert add_noise(flat, 10, 0).std() == pytest.approx(10 / 255, rel=0.05)
    assert plain_sum(flat, visible * 0.5).sub(visible * 0.5).std() < 1e-6
    assert stretch(0.45 + 0.1 * visible, 2).std() == pytest.approx(0.2 * visible.std().item(), rel=1e-4)
    steps = equalise(to_unit(to_bytes(torch.linspace(0, 0.5, 72 * 72).view(1, 1, 72, 72))))
    assert steps.mean() == pytest.approx(0.5, abs=0.01)
    assert blur(flat, 2).sub(0.5).abs().max() < 1e-6


def test_degradations_grow() -> None:
    batch = whole(SyntheticPairs(size=72).load("train-000000"))
    infrared, visible = batch.infrared, batch.visible
    base = (infrared + visible) / 2
    for kind, strengths in DEGRADATIONS.items():
        worse = [degrade(kind, strength, base, infrared, visible, 0) for strength in strengths]
        distances = [(plane - base).square().mean() for plane in worse]
        assert distances == sorted(distances), kind
    assert degrade("copying visible", 1, base, infrared, visible, 0).equal(visible)


def test_ranks_are_means_over_families_and_scenes() -> None:
    scores = {
        "a": {"SSIM": [3.0, 1.0], "MSE": [1.0, 1.0], "kept-targets": [0.5, np.nan]},
        "b": {"SSIM": [2.0, 2.0], "MSE": [2.0, 3.0], "kept-targets": [0.6, np.nan]},
        "c": {"SSIM": [1.0, 3.0], "MSE": [3.0, 2.0], "kept-targets": [0.7, np.nan]},
    }
    ranks = trial.scene_ranks(scores)
    assert ranks["SSIM"].tolist() == [[1, 2, 3], [3, 2, 1]]
    assert ranks["MSE"].tolist() == [[1, 2, 3], [1, 3, 2]]  # lower is better
    found = trial.overall(ranks, [("SSIM", "MSE"), ("kept-targets",)])
    np.testing.assert_allclose(found, [[2, 2, 2], [2, 2.5, 1.5]])
    seeds = {"loss/0": {"SSIM": [1.0]}, "loss/1": {"SSIM": [2.0]}, "rule": {"SSIM": [3.0]}}
    assert trial.over_seeds(seeds) == {"loss": {"SSIM": [1.5]}, "rule": {"SSIM": [3.0]}}


def test_the_trial_writes_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "BASES", ("energy pyramid",))
    source = SyntheticPairs(train=2, size=72)
    scores, good, moves = trial.judge(source, "train", {})
    lines = trial.report("rendered", scores, good, moves, tmp_path)
    rows = list(csv.DictReader((tmp_path / "ranks_rendered.csv").open()))
    assert len(rows) == len(scores)
    assert [float(row["balanced-1"]) for row in rows] == sorted(float(row["balanced-1"]) for row in rows)
    assert {row["fusion"] for row in rows if row["honest"] == "1"} == good
    assert rows[0]["honest"] == "1"
    assert any("Degenerate fusions before the best 3 honest ones" in line for line in lines)
    falls = list(csv.DictReader((tmp_path / "moves_rendered.csv").open()))
    noise = [float(row["monotone"]) for row in falls if row["degradation"] == "noise"]
    assert len(noise) == 5
    assert min(noise) == 1
    assert (tmp_path / "ranks_rendered.png").stat().st_size > 10_000
