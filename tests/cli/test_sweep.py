"""`clipfuse train -m`: one fresh process per job, a failing job among them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

Clipfuse = Callable[..., tuple[int, str, str]]


def test_a_failing_job_does_not_stop_the_others(
    clipfuse: Clipfuse, pairs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # As a rank of somebody's distributed run; the jobs must not take it for theirs.
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    common = [f"data.root={pairs_folder}", "data=folder", "trainer=cpu", "steps=2", "validate_every=1"]
    common += [
        "loader.crop_size=32",
        "backbone=conv_tiny",
        "backbone.width=4",
        "backbone.depth=0",
        "test=false",
    ]
    # In batches of one job, as a searching sweeper asks for them; the folder's name needs quoting.
    words = [*common, "loss.gradient_weight=-1,5", "hydra.sweeper.max_batch_size=1"]
    words += ['hydra.sweep.dir="it\'s a=sweep"']
    sweep = Path("it's a=sweep")
    code, output, errors = clipfuse("train", "-m", *words)
    assert code == 2
    last = errors.strip().splitlines()[-1]
    assert last == f"clipfuse: error: 1 of 2 jobs failed; see {sweep}/0/log.txt"
    assert "FAILED (exit code 2)" in output
    assert "... done in" in output
    jobs = OmegaConf.load(sweep / "sweep.yaml").jobs
    assert [list(jobs[number])[-1] for number in (0, 1)] == [
        "loss.gradient_weight=-1",
        "loss.gradient_weight=5",
    ]
    failed, finished = (json.loads((sweep / f"{number}/status.json").read_text()) for number in (0, 1))
    assert failed["status"] == "failed"
    assert "gradient_weight is -1" in (sweep / "0/log.txt").read_text()
    assert finished["status"] == "finished"
    assert OmegaConf.load(sweep / "1/config.yaml").loss.gradient_weight == 5
    assert (sweep / "1/checkpoints/last.ckpt").is_file()
    before = {path: path.read_bytes() for path in sweep.rglob("*") if path.is_file()}
    code, _, errors = clipfuse("train", "-m", *words)
    assert code == 2
    assert "holds an earlier sweep; choose another folder" in errors
    assert before == {path: path.read_bytes() for path in sweep.rglob("*") if path.is_file()}


def test_a_sweep_makes_its_own_run_folders(clipfuse: Clipfuse) -> None:
    code, _, errors = clipfuse("train", "-m", "seed=0,1", "run_dir=mine")
    assert code == 2
    assert "instead of run_dir=X give hydra.sweep.dir=X" in errors
