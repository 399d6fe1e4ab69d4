"""What the studies share: zips of results, finished runs, composed trainings, tables."""

import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clipfuse.backbones.conv_tiny import ConvTiny
from clipfuse.comparison.collect import find_runs
from experiments import common

Factory = Callable[..., Path]
EXPERIMENTS = Path(common.__file__).parent


def test_a_zip_of_the_same_files_has_the_same_bytes(sweep: Factory, tmp_path: Path) -> None:
    sweep(folder="pixel/0", pictures=16)
    root = sweep("ldfusion", folder="ldfusion/0")
    common.save_zip(root, tmp_path / "one.zip")
    for path in root.rglob("*"):
        os.utime(path, (1e9, 1e9))
    common.save_zip(root, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    names = zipfile.ZipFile(tmp_path / "one.zip").namelist()
    assert names == sorted(names)
    assert "pixel/0/test/per_image.csv" in names
    assert not any(name.endswith(".png") for name in names)
    kept, runs = find_runs([tmp_path / "one.zip"]), find_runs([root])
    assert [run.scores for run in kept] == [run.scores for run in runs]
    (root / "pixel/0/status.json").write_text('{"status": "failed"}')
    common.save_zip(root, tmp_path / "two.zip")
    assert [run.status for run in find_runs([tmp_path / "two.zip"])] == ["failed", "finished"]


def test_the_end_of_a_name_is_a_whole_name(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("run/status.json", "run/old_status.json", "status.json"):
        (tmp_path / name).write_text("{}")
    common.save_zip(tmp_path, tmp_path / "kept.zip", ("status.json",))
    assert zipfile.ZipFile(tmp_path / "kept.zip").namelist() == ["run/status.json", "status.json"]


def test_a_zip_names_no_place_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "study/samples/pixel/0"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(
        f"run_dir: {run}\nroot: /elsewhere/msrs\nstarted_in: {tmp_path}\nkept: /elsewhere\n"
    )
    common.save_zip(run.parents[1], tmp_path / "kept.zip", places={"/elsewhere/msrs": "data/msrs"})
    written = zipfile.ZipFile(tmp_path / "kept.zip").read("pixel/0/config.yaml").decode()
    assert written.split("\n")[:3] == ["run_dir: samples/pixel/0", "root: data/msrs", "started_in: ."]
    assert "kept: /elsewhere" in written


@pytest.mark.parametrize("kept", sorted(EXPERIMENTS.rglob("*.zip")), ids=lambda path: path.name)
def test_the_kept_zips_name_no_place_of_a_machine(kept: Path) -> None:
    with zipfile.ZipFile(kept) as archive:
        for name in archive.namelist():
            if not name.endswith(".csv"):
                found = re.search(r"(?<![\w./*:}-])/\w[\w.-]*/[\w./-]*", archive.read(name).decode())
                assert found is None, f"{name}: {found and found[0]}"


def test_a_part_of_the_folders_can_be_kept(tmp_path: Path) -> None:
    for name in ("pixel", "ldfusion", "downstream-sources"):
        (tmp_path / "samples" / name / "0").mkdir(parents=True)
        (tmp_path / "samples" / name / "0/status.json").write_text("{}")
    common.save_zip(tmp_path / "samples", tmp_path / "kept.zip", below=["pixel", "downstream-sources"])
    names = zipfile.ZipFile(tmp_path / "kept.zip").namelist()
    assert names == ["downstream-sources/0/status.json", "pixel/0/status.json"]


def test_only_finished_runs_are_taken(sweep: Factory) -> None:
    root = sweep(status={"status": "running"})
    with pytest.raises(SystemExit, match="no finished run in"):
        common.find_finished([root])
    sweep(seed=3)
    assert [run.seed for run in common.find_finished([root])] == [3]


def test_images_are_fused_in_order() -> None:
    network = ConvTiny(width=4, depth=1)
    infrared, visible = torch.rand(2, 6, 1, 16, 16)
    fused = common.fuse(network, infrared, visible)
    assert not network.training
    with torch.inference_mode():
        torch.testing.assert_close(fused[5:], network(infrared[5:], visible[5:]).fused)


def test_rendered_scenes_are_those_of_the_configuration() -> None:
    settings = {
        "_target_": "clipfuse.data.synthetic.SyntheticPairs",
        "train": 1,
        "val": 1,
        "test": 2,
        "size": 64,
    }
    scenes = common.rendered_scenes(settings)
    assert {name: tuple(plane.shape) for name, plane in scenes.items()} == dict.fromkeys(
        ("infrared", "visible", "target_mask", "reference"), (2, 1, 64, 64)
    )


def test_cells_and_tables() -> None:
    assert common.format_cell([1.0]) == "1.000"
    assert common.format_cell([1.0, 3.0], 1) == "2.0 ± 1.4"
    assert common.format_table(["a", "b"], [["1", "2"]]) == ["| a | b |", "|---|---|", "| 1 | 2 |"]


def test_the_option_for_real_pairs() -> None:
    assert common.make_parser("Text.", roadscene=True).parse_args(["--roadscene", "x"]).roadscene == "x"
    with pytest.raises(SystemExit):
        common.make_parser("Text.").parse_args(["--roadscene", "x"])
