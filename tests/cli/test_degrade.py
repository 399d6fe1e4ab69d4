"""`clipfuse degrade`: folders, names, depths, labels, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from clipfuse.data.degraded import degrade
from clipfuse.images import read_image
from clipfuse.ops.depth import from_unit, to_unit

Clipfuse = Callable[..., tuple[int, str, str]]


@pytest.fixture
def pairs(tmp_path: Path, pairs_folder: Path) -> Path:
    """Two test pairs, with a map of classes and a list of boxes for one of them."""
    folder = tmp_path / "msrs" / "test"
    shutil.copytree(pairs_folder / "test", folder)
    (folder / "Segmentation_labels").mkdir()
    cv2.imwrite(str(folder / "Segmentation_labels/test-0.png"), np.eye(48, 64, dtype=np.uint8))
    (folder / "labels").mkdir()
    (folder / "labels/test-0.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    return folder


def test_one_kind_and_strength(clipfuse: Clipfuse, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "noisy"
    words = ("degrade", "--in", str(pairs), "--out", str(out), "--kind", "noise", "--strength", "2")
    code, printed, error = clipfuse(*words)
    assert code == 0, error
    assert "2 pairs, noise in the infrared images" in printed
    assert "1 files of Segmentation_labels" in printed
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    both = [f"{band}/test-{index}.png" for band in ("ir", "vi") for index in (0, 1)]
    labels = ["Segmentation_labels/test-0.png", "labels/test-0.txt"]
    assert files == sorted([*both, *labels, "degradation.json"])
    record = json.loads((out / "degradation.json").read_text())
    assert record == {
        **{"protocol": "degraded-1", "kind": "noise", "strength": 2, "bands": ["infrared"]},
        **{"parameters": {"sigma": 0.12}, "set": "msrs", "pairs": 2, "range": None, "files": files},
    }
    infrared, visible = (to_unit(read_image(pairs / band / "test-1.png")) for band in ("ir", "vi"))
    expected, _ = degrade("noise", 2, infrared, visible, "test-1")
    assert torch.equal(read_image(out / "ir/test-1.png"), from_unit(expected, torch.uint8))
    assert torch.equal(read_image(out / "vi/test-1.png"), read_image(pairs / "vi/test-1.png"))
    for name in labels:
        assert (out / name).read_bytes() == (pairs / name).read_bytes()

    first = (out / "ir/test-1.png").read_bytes()
    assert "holds degraded pairs already" in clipfuse(*words)[2]
    for band in ("ir", "vi"):
        (pairs / band / "test-0.png").unlink()
    assert clipfuse(*words, "--overwrite")[0] == 0
    assert [path.name for path in (out / "ir").iterdir()] == ["test-1.png"]  # nothing is left of the earlier
    assert (out / "ir/test-1.png").read_bytes() == first  # whatever other pairs are there
    assert sorted(path.name for path in tmp_path.iterdir()) == ["msrs", "noisy"]


def test_several_kinds_of_deep_files_in_parts(clipfuse: Clipfuse, tmp_path: Path) -> None:
    source, out = tmp_path / "set", tmp_path / "out" / "deep"
    levels = np.random.default_rng(0).integers(1000, 5000, (20, 24)).astype(np.uint16)
    for part in ("train", "test"):
        for band in ("ir", "vi"):
            (source / part / band).mkdir(parents=True)
        cv2.imwrite(str(source / part / "ir" / "1.png"), levels)
        cv2.imwrite(str(source / part / "vi" / "1.png"), (levels >> 5).astype(np.uint8))
    words = ("degrade", "--in", str(source), "--out", str(out), "--kind", "haze, misaligned")
    code, printed, error = clipfuse(*words, "--strength", "1,3", "--range", "infrared=1000,5000")
    assert code == 0, error
    assert "no labels were copied" in printed
    names = {f"{kind}-{strength}" for kind in ("haze", "misaligned") for strength in (1, 3)}
    assert {path.name for path in out.iterdir()} == names
    for name in names:
        record = json.loads((out / name / "degradation.json").read_text())
        assert "train/degradation.json" in record.pop("files")
        assert json.loads((out / name / "test" / "degradation.json").read_text()) == record
        thermal, seen = (cv2.imread(str(out / name / f"train/{band}/1.png"), -1) for band in ("ir", "vi"))
        assert (thermal.dtype, seen.dtype) == (np.uint16, np.uint8)
        if name.startswith("haze"):
            np.testing.assert_array_equal(thermal, np.floor((levels - 1000.0) / 4000 * 65535 + 0.5))


def test_what_it_wrote_is_replaced_and_degraded_no_more(
    clipfuse: Clipfuse, pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "noisy"
    words = ("degrade", "--in", str(pairs), "--out", str(out), "--kind", "noise", "--strength", "2")
    assert clipfuse(*words)[0] == 0

    def error(*words: str) -> str:
        code, _, message = clipfuse(*words)
        assert code == 2
        assert message.count("\n") == 1
        return message

    message = error("degrade", "--in", str(out), "--out", str(tmp_path / "twice"), "--kind", "rain")
    assert f"its pairs are degraded already, by {out / 'degradation.json'}" in message
    assert not (tmp_path / "twice").exists()
    mine = out / "vi" / "thesis.txt"
    mine.write_text("years of work")
    (out / "fused").symlink_to(tmp_path)
    message = error(*words, "--overwrite")
    assert f"{out} holds fused and 1 more files, which this command has not written" in message
    assert mine.read_text() == "years of work"
    mine.unlink()
    (out / "fused").unlink()
    record = json.loads((out / "degradation.json").read_text())
    (out / "degradation.json").write_text(json.dumps({**record, "files": None}))
    assert "does not list the files of its folder; choose another folder" in error(*words, "--overwrite")
    (out / "degradation.json").write_text(json.dumps(record))
    assert clipfuse(*words, "--overwrite")[0] == 0


def test_refused_and_nothing_is_left(
    clipfuse: Clipfuse, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def error(*words: str, out: Path = tmp_path / "new") -> str:
        code, _, message = clipfuse("degrade", "--in", str(pairs), "--out", str(out), *words)
        assert code == 2
        assert message.count("\n") == 1 or "warning" in message or "degrading" in message
        return message

    assert "--kind fog: 'fog' is unknown. Expected noise, stripes" in error("--kind", "fog")
    assert "--strength 4: '4' is unknown" in error("--kind", "rain", "--strength", "4")
    assert "lie in each other" in error("--kind", "rain", out=pairs / "rain")
    assert "lie in each other" in error("--kind", "rain", out=pairs.parent)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    message = error("--kind", "rain", "--strength", "1", "--overwrite", out=tmp_path / "mine")
    assert "holds files that this command has not written" in message
    file = tmp_path / "mine/thesis.txt"
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    message = error("--kind", "rain", "--strength", "1", "--overwrite", out=tmp_path / "link")
    assert "link is a link, which cannot be replaced; name a new folder in it" in message
    with monkeypatch.context() as inside:
        inside.chdir(tmp_path / "empty")
        message = error("--kind", "rain", "--strength", "1", out=Path())
        assert "--out: . is in use as a place, which cannot be replaced" in message
    assert not list((tmp_path / "empty").iterdir())
    assert "is a file; expected a folder" in error("--kind", "rain", "--strength", "1", out=file)
    content = (pairs / "vi" / "test-1.png").read_bytes()
    (pairs / "vi" / "test-1.png").write_bytes(content[:100] + b"\xff" * 60 + content[160:])
    assert "test-1.png" in error("--kind", "all", out=tmp_path / "deep" / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "link", "mine", "msrs"]
