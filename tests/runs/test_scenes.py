"""What a run records of its pictures: their scenes, their content, the digest of their scores."""

import csv
import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import DictConfig
from PIL import Image

from clipfuse.comparison.collect import find_runs
from clipfuse.errors import UserError
from clipfuse.runs import results as callbacks
from clipfuse.runs import scores
from clipfuse.runs.evaluate import evaluate
from clipfuse.runs.train import train

Config = Callable[..., DictConfig]
QUICK = ("steps=1", "metrics.test=[SSIM]", "metrics.validation=[SSIM]")
WARNING = "the test images of 'folder' look like video"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training, one validation and nine test pictures of a camera that stands still."""
    root = tmp_path_factory.mktemp("video")
    generator = np.random.default_rng(0)
    place = generator.integers(0, 200, (2, 6, 8)).repeat(8, axis=1).repeat(8, axis=2)
    for part, count in {"train": 2, "val": 1, "test": 9}.items():
        for frame in range(count):
            for band, picture in zip(("ir", "vi"), place, strict=True):
                path = root / part / band / f"{part}{frame}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((picture + generator.integers(0, 9, (48, 64))).astype(np.uint8)).save(path)
    return root


def record(run_dir: str) -> dict[str, Any]:
    return dict(yaml.safe_load((Path(run_dir) / "config.yaml").read_text()))


def warnings(log: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in log.records if entry.levelno >= logging.WARNING]


def test_video_without_scenes_is_warned_of(
    tiny_config: Config, video: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(f"data.root={video}", *QUICK)
    train(config)
    assert [text for text in warnings(caplog) if WARNING in text] == [warnings(caplog)[0]]
    found = record(config.run_dir)
    assert found["scenes"] == {"source": "names", "warning": warnings(caplog)[0], "images": 9} | {
        "scenes": 9,
        "largest": 1,
    }
    caplog.clear()
    words = [f"checkpoint={tmp_path}/run/checkpoints/last.ckpt", f"data.root={video}", "metrics.test=[SSIM]"]
    evaluated = (*words, f"run_dir={tmp_path / 'evaluated'}")
    evaluate(tiny_config(*evaluated, config_name="evaluate"))
    assert WARNING in warnings(caplog)[0]
    assert record(str(tmp_path / "evaluated"))["scenes"] == found["scenes"]
    assert record(str(tmp_path / "evaluated"))["split_sha256"] == found["split_sha256"]

    caplog.clear()
    told = tiny_config(f"data.root={video}", "data.scenes=auto", f"run_dir={tmp_path / 'told'}", *QUICK)
    train(told)
    assert not any("video" in text for text in warnings(caplog))
    expected = {"source": "auto", "warning": None, "images": 9, "scenes": 1, "largest": 9}
    assert record(told.run_dir)["scenes"] == expected
    assert record(told.run_dir)["split_sha256"] != found["split_sha256"]
    assert record(told.run_dir)["names_sha256"] == found["names_sha256"]
    with (Path(told.run_dir) / "test/per_image.csv").open(newline="") as file:
        assert {row["scene"] for row in csv.DictReader(file)} == {"test0"}


def test_single_pictures_are_not(trained: Path) -> None:
    expected = {"source": "names", "warning": None, "images": 2, "scenes": 2, "largest": 1}
    assert record(str(trained))["scenes"] == expected
    assert record(str(trained))["split_of"] == "names, content and scenes"


def test_the_scores_have_a_digest(trained: Path) -> None:
    content = json.loads((trained / "test/metrics.json").read_text())
    assert content["images"] == 2
    digest = hashlib.sha256((trained / "test/per_image.csv").read_bytes()).hexdigest()
    assert content["per_image_sha256"] == digest
    (run,) = find_runs([trained])
    assert run.digested
    assert run.knows_content


def test_a_test_that_is_killed_leaves_no_digest_of_an_earlier_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def killed(path: Path, content: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scores, "write_json", killed)
    writer = callbacks.TestWriter(str(tmp_path))
    writer.folder.mkdir()
    (writer.folder / "metrics.json").write_text('{"per_image_sha256": "0"}')
    writer.scores = [{"name": "a", "scene": "a", "EN": 1.0}]
    trainer = SimpleNamespace(is_global_zero=True, callback_metrics={})
    metrics = SimpleNamespace(protocol=SimpleNamespace(checked=(), own=()), undefined=dict)
    with pytest.raises(KeyboardInterrupt):
        writer.on_test_end(trainer, SimpleNamespace(test_metrics=metrics))  # type: ignore[arg-type]
    assert (writer.folder / "per_image.csv").is_file()
    assert not (writer.folder / "metrics.json").exists()


def test_a_run_goes_on_with_the_same_pictures_alone(
    tiny_config: Config, pairs_folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "pairs"
    shutil.copytree(pairs_folder, root)
    words = ("test=false", f"data.root={root}", "metrics.validation=[SSIM]")
    train(tiny_config(*words, "steps=3"))
    path = tmp_path / "run/checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    config = content["clipfuse"]["config"]
    config["steps"] = 6
    torch.save(content, path)
    old = tmp_path / "old.ckpt"
    for key in ("split_of", "scenes"):
        del config[key]
    del config["data"]["scenes"]
    config["split_sha256"] = config.pop("names_sha256")
    torch.save(content, old)

    picture = root / "train/vi/train-0.png"
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(picture)
    with pytest.raises(UserError, match=r"cannot be resumed: its split_sha256 is '.*a resumed run keeps"):
        train(tiny_config(*words, f"checkpoint={path}"))
    train(tiny_config(*words, f"checkpoint={old}", f"run_dir={tmp_path / 'again'}"))  # known by names alone
    for band in ("ir", "vi"):
        (root / f"train/{band}/train-0.png").rename(root / f"train/{band}/train-9.png")
    with pytest.raises(UserError, match=r"old\.ckpt cannot be resumed: its split_sha256 is"):
        train(tiny_config(*words, f"checkpoint={old}", f"run_dir={tmp_path / 'third'}"))
