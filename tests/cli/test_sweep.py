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
    common += ["loader.crop_size=32", "backbone.width=4", "backbone.depth=0", "test=false"]
    code, output, errors = clipfuse(
        "train", "-m", *common, "loss.gradient_weight=-1,5", "hydra.sweep.dir=sweep"
    )
    assert code == 2
    assert errors.strip().splitlines()[-1] == ("clipfuse: error: 1 of 2 jobs failed (0); see sweep/N/log.txt")
    assert "job 0: loss.gradient_weight=-1 ... FAILED (exit code 2)" in output
    assert "job 1: loss.gradient_weight=5 ... done" in output
    jobs = OmegaConf.load("sweep/sweep.yaml").jobs
    assert [list(jobs[number])[-1] for number in (0, 1)] == [
        "loss.gradient_weight=-1",
        "loss.gradient_weight=5",
    ]
    failed, finished = (json.loads(Path(f"sweep/{number}/status.json").read_text()) for number in (0, 1))
    assert failed["status"] == "failed"
    assert "gradient_weight is -1" in Path("sweep/0/log.txt").read_text()
    assert finished["status"] == "finished"
    assert OmegaConf.load("sweep/1/config.yaml").loss.gradient_weight == 5
    assert Path("sweep/1/checkpoints/last.ckpt").is_file()
