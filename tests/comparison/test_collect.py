"""Run folders are found, grouped into variants, and refused where they do not compare."""

import json
from collections.abc import Callable
from math import isnan
from pathlib import Path

import pytest

from clipfuse.comparison.collect import find_runs
from clipfuse.comparison.variants import group, select
from clipfuse.errors import UserError

Factory = Callable[..., Path]


def test_a_run_of_the_engine_is_read(trained: Path) -> None:
    (run,) = find_runs([trained.parent])
    assert (run.status, run.seed, run.protocol, run.samples_seen) == ("finished", 0, "strict-2", 12)
    assert set(run.scenes) == {"test-0", "test-1"}
    means = json.loads((trained / "test/metrics.json").read_text())["mean"]
    assert sum(run.scores["SSIM"].values()) / 2 == pytest.approx(means["SSIM"], rel=1e-12)
    assert isnan(run.scores["MS-SSIM"]["test-0"])  # too small for it
    assert [x for x, _ in run.curves["train/loss/total"]] == [2, 4, 6, 8, 10, 12]
    assert run.seconds is not None
    assert run.seconds[0] > 0
    assert not run.seconds[1]
    assert group([run])[0].name == "pixel"


def test_a_folder_named_twice_counts_once(sweep: Factory) -> None:
    root = sweep()
    assert len(find_runs([root, root / "0"])) == 1


def test_an_evaluation_is_no_run(sweep: Factory) -> None:
    root = sweep()
    sweep(folder="0/evaluate")
    (root / "1").mkdir()
    (root / "1/status.json").write_text('{"status": "finished"}')
    (root / "1/config.yaml").write_text("checkpoint: last.ckpt\n")
    assert [run.folder.name for run in find_runs([root])] == ["0"]


def test_jobs_that_have_not_started_are_told(sweep: Factory) -> None:
    root = sweep()
    (root / "sweep.yaml").write_text("jobs:\n  0: [seed=0]\n  1: [seed=1]\n")
    taken, notes = select(find_runs([root]), partial=True)
    assert [run.folder.name for run in taken] == ["0"]
    assert notes == [f"Left out: {root.resolve() / '1'} (not started)."]


def test_devices_are_counted_by_what_they_did(sweep: Factory) -> None:
    """`devices: auto` says no number; two of them see twice the samples in an update."""
    root = sweep(options={"trainer.devices": "auto"})
    fit = {"seconds": 9.0, "updates": 10, "samples": 80}
    sweep("ldfusion", options={"trainer.devices": "auto"}, status={"samples_seen": 80, "fit": fit})
    one, two = (run.budget for run in find_runs([root]))
    assert one.startswith("40 samples, batch 4")
    assert two.startswith("80 samples, batch 8")


def test_the_time_of_a_resumed_run_is_projected(sweep: Factory) -> None:
    root = sweep(status={"fit": {"seconds": 6.0, "updates": 4, "samples": 16}})
    (run,) = find_runs([root])
    assert run.seconds == (15.0, True)  # 6 s for 16 of 40 samples


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("status.json", "{", r"status.json: cannot be read"),
        ("status.json", "[]", r"expected a mapping"),
        ("config.yaml", "a: [", r"config.yaml: cannot be read"),
        ("config.yaml", "loss: {}\n", r"has no 'seed'"),
        ("test/per_image.csv", "name,SSIM\n../a,1\n", r"\.\./a"),
        ("test/per_image.csv", "image,SSIM\na,1\n", r"has no column 'name'"),
        ("test/per_image.csv", "name,SSIM\na,1\nb\n", r"line 3 is cut off"),
        ("test/per_image.csv", "name,SSIM\na,1,2\n", r"line 2 is cut off or too long"),
        ("metrics.csv", "trainer/samples_seen,train/x\n1,abc\n", r"'abc' is no number"),
    ],
)
def test_damaged_files_are_named(sweep: Factory, file: str, text: str, message: str) -> None:
    root = sweep()
    (root / "0" / file).write_text(text)
    with pytest.raises(UserError, match=message):
        find_runs([root])


def test_folders_without_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such folder"):
        find_runs([tmp_path / "missing"])
    with pytest.raises(UserError, match=r"holds no run folder"):
        find_runs([tmp_path])
