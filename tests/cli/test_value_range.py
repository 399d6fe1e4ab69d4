"""A range of values holds in every command, in Python, and in what is recorded."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import clipfuse as package
from clipfuse import images
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.runs.contract import decide, flatten

Run = Callable[..., tuple[int, str, str]]
LOW, HIGH = 7000, 8020  # each of 255 levels is 4 of these


@pytest.fixture
def deep(tmp_path: Path, pairs_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pairs with infrared images as a camera of 14 bits stores them."""
    monkeypatch.setattr(images, "_warned", set())
    for path in pairs_folder.rglob("*.png"):
        other = tmp_path / "deep" / path.relative_to(pairs_folder)
        other.parent.mkdir(parents=True, exist_ok=True)
        array = np.array(Image.open(path))
        Image.fromarray(LOW + 4 * array.astype(np.uint16) if "ir" in path.parts else array).save(other)
    return tmp_path / "deep"


def fuse_words(root: Path, trained: Path, out: Path) -> list[str]:
    words = ["fuse", "--checkpoint", f"{trained}/checkpoints/last.ckpt", "--out", str(out)]
    return [*words, "--infrared", f"{root}/test/ir", "--visible", f"{root}/test/vi"]


def pixels(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.array(Image.open(path)) for path in sorted(folder.iterdir())}


def test_fuse_reads_deep_files_as_the_range_states(
    clipfuse: Run, trained: Path, pairs_folder: Path, deep: Path, tmp_path: Path, caplog
) -> None:
    assert clipfuse(*fuse_words(pairs_folder, trained, tmp_path / "8 bits"))[0] == 0
    assert not caplog.messages
    plain = fuse_words(deep, trained, tmp_path / "plain")
    assert clipfuse(*plain)[0] == 0
    (message,) = caplog.messages
    assert "hold values 7100 to 7904, most 71" in message
    assert "set --range=7100,7904 or bits:14" in message
    caplog.clear()
    whole, flat = pixels(tmp_path / "8 bits"), pixels(tmp_path / "plain")
    for place, words in enumerate(
        [[f"--range={LOW},{HIGH}"], [f"--range=infrared={LOW},{HIGH}", "--range=visible=bits:10"]]
    ):
        assert clipfuse(*fuse_words(deep, trained, tmp_path / f"{place}"), *words)[0] == 0
        assert not caplog.messages
        read = pixels(tmp_path / f"{place}")
        assert all(np.array_equal(read[name], whole[name]) for name in whole)
    assert not any(np.array_equal(flat[name], whole[name]) for name in whole)


def test_score_reads_them_alike(
    clipfuse: Run, pairs_folder: Path, deep: Path, tmp_path: Path, caplog
) -> None:
    fused = pairs_folder / "test/vi"
    rows = []
    for place, (root, more) in enumerate([(pairs_folder, []), (deep, [f"--range={LOW},{HIGH}"]), (deep, [])]):
        out = tmp_path / f"{place}.csv"
        words = [
            "score",
            "--fused",
            str(fused),
            "--infrared",
            f"{root}/test/ir",
            "--visible",
            f"{root}/test/vi",
        ]
        code, _, errors = clipfuse(*words, "--out", str(out), "--metrics", "SSIM,VIF,MI,CC", *more)
        assert code == 0, errors
        code, _, errors = clipfuse(*words, "--json", f"{out}.json", "--metrics", "EN", *more)
        assert code == 0, errors
        assert json.loads(Path(f"{out}.json").read_text())["range"] == ([f"{LOW},{HIGH}"] if more else None)
        rows.append(list(csv.DictReader(out.open())))
    assert rows[0] == rows[1]
    assert rows[0] != rows[2]
    assert "--range=7100,7904" in caplog.text


def test_train_evaluate_and_the_record(
    clipfuse: Run, pairs_folder: Path, deep: Path, tmp_path: Path, caplog
) -> None:
    written = []
    small = ["name=tiny", "trainer=cpu", "data=folder", "backbone=conv_tiny", "backbone.width=8", "steps=2"]
    small += ["validate_every=2", "loader.batch_size=2", "loader.crop_size=32", "metrics.validation=[SSIM]"]
    small += ["~callbacks.progress", "+trainer.enable_progress_bar=false", "loader.workers=0"]
    for name, root, more in [("8", pairs_folder, []), ("16", deep, [f"data.range=[{LOW},{HIGH}]"])]:
        run = tmp_path / name
        code, _, errors = clipfuse("train", *small, f"data.root={root}", f"run_dir={run}", *more)
        assert code == 0, errors
        evaluated = tmp_path / f"{name}-evaluated"
        words = ["evaluate", f"checkpoint={run}/checkpoints/last.ckpt", "trainer=cpu", "data=folder"]
        code, _, errors = clipfuse(*words, f"data.root={root}", f"run_dir={evaluated}", *more)
        assert code == 0, errors
        for folder in (run, evaluated):
            written.append(list(csv.DictReader((folder / "test/per_image.csv").open())))
            config = yaml.safe_load((folder / "config.yaml").read_text())
            assert config["data"]["range"] == ([LOW, HIGH] if more else None)
    assert all(rows == written[0] for rows in written[1:])
    checkpoint = tmp_path / "16/checkpoints/last.ckpt"
    assert read_checkpoint(checkpoint)["clipfuse"]["config"]["data"]["range"] == [LOW, HIGH]
    assert "range" not in caplog.text
    # Fused without the range, its network is named with the one that it was trained with.
    assert clipfuse(*fuse_words(deep, tmp_path / "16", tmp_path / "out"))[0] == 0
    assert f"16/checkpoints/last.ckpt was trained with data.range=[{LOW}, {HIGH}]" in caplog.text


def test_a_resumed_or_compared_run_must_agree_in_it() -> None:
    assert decide("data.range").compare == "data"
    assert not decide("data.range").resume
    node = {"_target_": "clipfuse.data.folder.PairedFolder", "root": "x"}
    older, newer = flatten({"data": node}), flatten({"data": node | {"range": None}})
    assert older == newer
    assert flatten({"data": node | {"range": [1, 2]}}) != newer
    assert flatten({"data": node | {"range": {"infrared": [1, 2]}}}) != newer


def test_in_python(pairs_folder: Path, deep: Path) -> None:
    paths = [
        (str(root / "test/ir/test-0.png"), str(root / "test/vi/test-0.png")) for root in (pairs_folder, deep)
    ]
    arrays = [np.array(Image.open(pair[0])) for pair in paths]
    color = np.array(Image.open(paths[0][1]))
    limits = (LOW, HIGH)
    expected = np.array(package.fuse(*paths[0]))
    assert np.array_equal(np.array(package.fuse(*paths[1], range=limits)), expected)
    assert np.array_equal(package.fuse(arrays[1], color, range=limits), expected)
    assert np.array_equal(package.fuse(arrays[1].astype(np.int32), color, range=limits), expected)
    assert np.array_equal(package.fuse([arrays[1]], [color], range={"infrared": limits})[0], expected)
    tensor = torch.from_numpy(arrays[1].astype(np.float32))
    assert np.array_equal(
        package.fuse(tensor, torch.from_numpy(color).movedim(-1, 0), range=limits).movedim(0, -1), expected
    )
    one, other = package.read_pair(*paths[0]), package.read_pair(*paths[1], range=limits)
    # A quotient of whole numbers, in float32.
    assert float((one.infrared - other.infrared).abs().max()) <= 2**-24
    scores = [
        package.score(expected, arrays[0], color, metrics="SSIM,VIF"),
        package.score(expected, arrays[1], color, metrics="SSIM,VIF", range=limits),
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)


@pytest.mark.parametrize("words", [["--range=4"], ["--range=thermal=1,2"], ["--range", "bits:99"]])
def test_a_wrong_range_is_one_line(clipfuse: Run, trained: Path, deep: Path, tmp_path: Path, words) -> None:
    code, _, errors = clipfuse(*fuse_words(deep, trained, tmp_path / "out"), *words)
    assert code == 2
    assert "clipfuse: error: --range" in errors
    assert not (tmp_path / "out").exists()


def test_what_14_bits_did_to_a_real_fusion(roadscene: Path, deep: Path, tmp_path: Path) -> None:
    """The fault: of 14 bits over 65535 the fused image correlates with the infrared one far less."""
    infrared = np.array(Image.open(next((roadscene / "ir").iterdir())).convert("L"))
    visible = np.array(Image.open(next((roadscene / "vi").iterdir())))
    stored = (LOW + 4 * infrared.astype(np.uint16)).astype(np.uint16)
    like = [
        np.corrcoef(
            cv2.cvtColor(package.fuse(stored, visible, **more), cv2.COLOR_RGB2GRAY).ravel(), infrared.ravel()
        )[0, 1]
        for more in ({}, {"range": (LOW, HIGH)})
    ]
    assert like[1] > like[0] + 0.2
