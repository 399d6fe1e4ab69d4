"""Run folders are found, grouped into variants, and refused where they do not compare."""

import json
from collections.abc import Callable
from math import isnan
from pathlib import Path

import pytest

from clipfuse.comparison.collect import find_runs
from clipfuse.comparison.variants import group, select
from clipfuse.errors import UserError
from clipfuse.runs.owner import owned

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


def test_jobs_in_folders_of_their_own_names(sweep: Factory) -> None:
    root = sweep(folder="pixel-0")
    jobs = "jobs:\n  0: [seed=0]\n  1: [seed=1]\n  2: [seed=2]\n"
    (root / "sweep.yaml").write_text(jobs + "folders: {0: pixel-0, 1: pixel-1, 2: ../elsewhere}\n")
    found = {run.folder.name: (run.status, run.overrides) for run in find_runs([root])}
    assert found == {
        "pixel-0": ("finished", ["seed=0"]),
        "pixel-1": ("not started", ["seed=1"]),
        "2": ("not started", ["seed=2"]),
    }


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


def test_links_in_a_circle_end(sweep: Factory) -> None:
    root = sweep()
    for name in ("a", "b", "0/test/c"):
        (root / name).symlink_to(root if "/" in name else ".")
    (root / "d").symlink_to("d")
    assert [run.folder.name for run in find_runs([root])] == ["0"]
    (root / "again").symlink_to("0")
    assert [run.folder.name for run in find_runs([root])] == ["0"]


def test_a_link_to_another_folder_is_left_out_and_named(sweep: Factory, tmp_path: Path) -> None:
    root = sweep()
    sweep("ldfusion", folder="../elsewhere/1")
    (root / "1").symlink_to(tmp_path / "elsewhere/1")
    taken, notes = select(find_runs([root]), partial=False)
    assert [run.folder.name for run in taken] == ["0"]
    assert notes == [
        f"Left out: {root / '1'} is a link that leads out of {root}; name its target to compare it as well."
    ]
    assert len(find_runs([root, root / "1"])) == 3  # a link that is named itself is followed


@pytest.mark.parametrize("name", ["status.json", "config.yaml", "metrics.csv", "test/per_image.csv"])
def test_a_file_behind_a_link_is_not_read(sweep: Factory, tmp_path: Path, name: str) -> None:
    root = sweep()
    sweep("ldfusion")
    (root / "0" / name).rename(tmp_path / "private")
    (root / "0" / name).symlink_to(tmp_path / "private")
    taken, notes = select(find_runs([root]), partial=False)
    assert [run.folder.name for run in taken] == ["1"]
    (note,) = notes
    assert f"{root / '0' / name}: cannot be read (it is a link that leads out of" in note


def test_a_spoiled_run_is_left_out_in_one_line(sweep: Factory) -> None:
    root = sweep()
    sweep("ldfusion", status={"status": "failed", "reason": "a\nb \x1b[2J"})
    sweep("clip_ratio")
    (root / "0/status.json").write_text('{"status": "finished", "fit": {"seconds": "long"}}')
    taken, notes = select(find_runs([root]), partial=False)
    assert [run.folder.name for run in taken] == ["2"]
    assert notes == [
        f"Left out: {root / '0/status.json'}: fit.seconds is 'long': input should be a valid number; restore "
        "the file, or leave the run folder out.",
        f"Left out: {root / '1'} (failed: a b ?[2J).",
    ]


@pytest.mark.parametrize("known", ["config.yaml", "other runs"])
def test_scores_cut_at_the_end_of_a_line_are_found_in_older_runs(sweep: Factory, known: str) -> None:
    """They have no metrics.json; the configuration, or the other runs of the split, count the images."""
    options = {"scenes": {"images": 6}} if known == "config.yaml" else {}
    root = sweep(options=options)
    sweep("ldfusion", options=options)
    path = root / "0/test/per_image.csv"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    taken, notes = select(find_runs([root]), partial=False)
    assert [run.folder.name for run in taken] == ["1"]
    expected = "holds 4 of 6 images that config.yaml counts" if options else "lacks 2 of the 6 test images"
    assert expected in notes[0]


def test_a_finished_run_without_its_configuration_is_spoiled(sweep: Factory) -> None:
    root = sweep()
    sweep("ldfusion")
    (root / "0/config.yaml").unlink()
    taken, notes = select(find_runs([root]), partial=True)
    assert [run.folder.name for run in taken] == ["1"]
    assert "config.yaml: cannot be read (No such file or directory)" in notes[0]


def test_a_run_whose_process_has_ended_is_not_running(sweep: Factory) -> None:
    root = sweep(status={"status": "running"}, images=())
    assert [run.status for run in find_runs([root])] == ["running"]
    (root / "0/.lock").touch()  # left behind by a process that was killed
    (run,) = find_runs([root])
    assert (run.status, run.reason) == ("failed", "its process has ended")
    with owned(root / "0"):
        assert [run.status for run in find_runs([root])] == ["running"]


def test_what_machines_found_can_be_left_unread(sweep: Factory, judge: Factory) -> None:
    """A result that is spoiled is mended by the command that judges, which must not stop at it."""
    root = sweep("pixel", seed=0, folder="pixel/0")
    judge(root / "pixel/0")
    (root / "pixel/0/downstream/segmentation/metrics.json").write_text("{")
    (run,) = find_runs([root], judged=False)
    assert run.status == "finished"
    assert not run.judged
    with pytest.raises(UserError, match=r"metrics\.json"):
        find_runs([root])
