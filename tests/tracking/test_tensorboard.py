"""The event files of a run, read back by TensorBoard's own reader."""

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clipfuse.errors import UserError
from clipfuse.runs.evaluate import evaluate
from clipfuse.runs.train import train
from clipfuse.tracking.tensorboard import RunTensorBoardLogger
from clipfuse.training.module import FusionModule

Config = Callable[..., DictConfig]
X = "trainer/samples_seen"


class Events:
    """What TensorBoard shows of a run folder."""

    def __init__(self, run_dir: Path) -> None:
        everything = {"scalars": 0, "images": 0, "tensors": 0}
        self.found = EventAccumulator(str(run_dir / "tensorboard"), size_guidance=everything)
        self.found.Reload()
        self.tags = self.found.Tags()

    def curve(self, key: str) -> dict[int, float]:
        points = [(event.step, event.value) for event in self.found.Scalars(key)]
        assert len(dict(points)) == len(points), f"{key} has two values at one place"
        return dict(points)

    def images(self, key: str) -> dict[int, np.ndarray]:
        files = {event.step: event.encoded_image_string for event in self.found.Images(key)}
        return {step: np.asarray(Image.open(io.BytesIO(content))) for step, content in files.items()}

    def text(self, key: str) -> str:
        (event,) = self.found.Tensors(f"{key}/text_summary")
        return bytes(event.tensor_proto.string_val[0]).decode()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def check_curves(run_dir: Path, events: Events) -> None:
    """Hold every scalar of the training against metrics.csv."""
    table = rows(run_dir / "metrics.csv")
    keys = {key for key in table[0] if key not in ("step", X)}
    assert keys == {key for key in events.tags["scalars"] if not key.startswith("best/")}
    for key in keys:
        expected = {int(float(row[X])): float(row[key]) for row in table if row[key]}
        assert events.curve(key) == pytest.approx(expected, rel=1e-6), key


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, pairs_folder: Path, compose_run: Callable[..., DictConfig]
) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ("loss=promptfusion", "loss.warmup=1", "loss.fidelity.decomposition_weight=0")
    # Both at once: each is a key of the mapping `logger`.
    words += ("logger=[wandb,tensorboard]", "logger.wandb.mode=offline")
    train(compose_run(folder, pairs_folder, words, "train"))
    return folder


def test_curves_lie_over_the_samples_seen(run: Path) -> None:
    events = Events(run)
    check_curves(run, events)
    assert list(events.curve("train/loss/total")) == [2, 4, 6, 8, 10, 12]
    assert list(events.curve("val/metric/SSIM")) == [6, 12]
    assert list(events.curve("test/SSIM")) == [12]


def test_best_scores_are_those_of_the_best_validation(run: Path) -> None:
    events = Events(run)
    scores = events.curve("val/metric/SSIM")
    best = max(scores, key=lambda place: scores[place])
    assert events.curve("best/SSIM") == {12: scores[best]}
    assert events.curve("best/samples_seen") == {12: best}


def test_samples_panel_and_notes_are_shown_as_images(run: Path) -> None:
    events = Events(run)
    assert set(events.tags["images"]) == {"val/samples/val-0", "val/samples/val-1", "test/panel", "notes"}
    for name in ("val-0", "val-1"):
        shown = events.images(f"val/samples/{name}")
        assert list(shown) == [6, 12]
        assert not np.array_equal(shown[6], shown[12])  # the fused image has changed
    for key, files in {
        "test/panel": {12: run / "test/panel.png"},
        "notes": {2 * update: run / f"notes/{update:06d}.png" for update in (0, 3, 6)},
    }.items():
        shown = events.images(key)
        assert shown.keys() == files.keys()
        assert all(np.array_equal(shown[step], np.asarray(Image.open(path))) for step, path in files.items())


def cells(text: str) -> list[list[str]]:
    head, _, *lines = text.splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in (head, *lines)]


def test_words_scores_and_configuration_are_shown_as_texts(run: Path) -> None:
    events = Events(run)
    with (run / "notes/words.csv").open(newline="") as file:
        expected = [[cell.strip() for cell in row] for row in csv.reader(file)]
    assert cells(events.text("notes/words")) == expected
    head, *lines = cells(events.text("test/images"))
    per_image = rows(run / "test/per_image.csv")
    assert head == ["name", *(key for key in per_image[0] if key not in ("name", "scene", "protocol"))]
    assert [line[0] for line in lines] == ["test-0", "test-1"]
    for line, row in zip(lines, per_image, strict=True):
        for key, cell in zip(head[1:], line[1:], strict=True):
            assert (cell == "") == (row[key] in ("", "nan"))
            assert cell == "" or float(cell) == pytest.approx(float(row[key]), rel=1e-5)
    config = OmegaConf.create(events.text("config").strip("`"))
    assert config == OmegaConf.load(run / "config.yaml")


def test_wandb_was_written_as_well(run: Path) -> None:
    assert len(list((run / "wandb").glob("offline-run-*/run-*.wandb"))) == 1
    assert rows(run / "metrics.csv")


class _PowerCut(Callback):
    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 5:
            raise RuntimeError("power cut")


def test_a_resumed_run_goes_on_in_its_folder_without_doubled_values(
    tiny_config: Config, tmp_path: Path
) -> None:
    cut = f"+callbacks.cut={{_target_: {__name__}._PowerCut}}"
    with pytest.raises(RuntimeError, match="power cut"):
        train(tiny_config("logger=tensorboard", "test=false", cut))
    assert list(Events(tmp_path / "run").curve("train/loss/total")) == [2, 4, 6, 8, 10]
    train(tiny_config("logger=tensorboard", "test=false", "auto_resume=true"))
    events = Events(tmp_path / "run")
    assert len(list((tmp_path / "run/tensorboard").iterdir())) == 2
    check_curves(tmp_path / "run", events)
    assert list(events.images("val/samples/val-0")) == [6, 12]


def test_a_run_that_is_resumed_for_its_test_keeps_its_curves(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(FusionModule, "test_step", die)
        with pytest.raises(RuntimeError, match="power cut"):
            train(tiny_config("logger=tensorboard"))
    train(tiny_config("logger=tensorboard", "auto_resume=true"))
    events = Events(tmp_path / "run")
    assert list(events.curve("train/loss/total")) == [2, 4, 6, 8, 10, 12]
    mean = json.loads((tmp_path / "run/test/metrics.json").read_text())["mean"]["SSIM"]
    assert events.curve("test/SSIM") == pytest.approx({12: mean}, rel=1e-6)


def test_an_evaluation_is_shown(tiny_config: Config, trained: Path, tmp_path: Path) -> None:
    checkpoint = f"checkpoint={trained / 'checkpoints/last.ckpt'}"
    evaluate(tiny_config(checkpoint, "logger=tensorboard", config_name="evaluate"))
    events = Events(tmp_path / "run")
    mean = json.loads((trained / "test/metrics.json").read_text())["mean"]["SSIM"]
    assert events.curve("test/SSIM") == pytest.approx({0: mean}, rel=1e-6)
    assert events.tags["images"] == ["test/panel"]


def test_without_the_package_the_extra_is_named(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"logger\.tensorboard: .*pip install 'clipfuse\[tensorboard\]'"):
        train(tiny_config("logger=tensorboard"))
    assert not (tmp_path / "run").exists()


def test_a_cell_cannot_end_its_table(tmp_path: Path) -> None:
    logger = RunTensorBoardLogger(str(tmp_path))
    logger.log_rows("words", ["text", "value"], [["a|b", None], ["c", 0.5]], 4)
    logger.finish(failed=False)
    text = Events(tmp_path).text("words")
    assert text.splitlines() == ["| text | value |", "| --- | --- |", "| a\\|b |  |", "| c | 0.5 |"]
