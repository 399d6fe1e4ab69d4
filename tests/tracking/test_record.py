"""One offline run of a small sweep, read back with wandb's own reader."""

import csv
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from clipfuse.runs.train import train
from clipfuse.types import SAMPLES_SEEN

WANDB = str(Path(sys.executable).with_name("wandb"))


@dataclass
class Recorded:
    folder: Path
    screen: str
    records: list[dict[str, Any]]

    @property
    def files(self) -> Path:
        (run,) = (self.folder / "wandb").glob("offline-run-*")
        return run / "files"

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [record[kind] for record in self.records if record["type"] == kind]

    def history(self, key: str) -> list[dict[str, Any]]:
        return [
            entry["item"] for entry in self.all("history") if any(k.startswith(key) for k in entry["item"])
        ]

    @property
    def summary(self) -> dict[str, Any]:
        return {key: value for entry in self.all("summary") for key, value in entry["update"].items()}

    def table(self, key: str) -> tuple[list[str], list[list[Any]]]:
        assert len(self.history(key)) == 1  # logged once
        content = json.loads(self.staged()[f"{key}.table.json"].read_text())
        return content["columns"], content["data"]

    def staged(self) -> dict[str, Path]:
        """Where the files of the tables wait for their upload."""
        tables = [artifact for artifact in self.all("artifact") if artifact["type"] == "run_table"]
        contents = [content for artifact in tables for content in artifact["manifest"]["contents"]]
        return {content["path"]: Path(content["local_path"]) for content in contents}


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, pairs_folder: Path, compose_run: Callable[..., DictConfig]
) -> Recorded:
    sweep = tmp_path_factory.mktemp("sweeps") / "my sweep"
    sweep.mkdir()
    words = ["loss=promptfusion", "loss.warmup=1", "seed=0"]
    record = {"words": ["loss=promptfusion", "loss.warmup=1,2", "seed=0"], "jobs": {0: words}}
    OmegaConf.save(record, sweep / "sweep.yaml")
    words += ["loss.fidelity.decomposition_weight=0", "logger=wandb", "logger.wandb.mode=offline"]
    with redirect_stdout(StringIO()) as screen:
        train(compose_run(sweep / "0", pairs_folder, tuple(words), "train"))
    (log,) = (sweep / "0/wandb").glob("offline-run-*")
    lines = subprocess.check_output([WANDB, "leet", "inspect", "--json", str(log)], text=True)
    return Recorded(sweep / "0", screen.getvalue(), [json.loads(line) for line in lines.splitlines()])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_group_type_tags_and_name(run: Recorded) -> None:
    (found,) = run.all("run")
    assert found["run_group"] == "my sweep"
    assert found["job_type"] == "promptfusion"
    assert found["tags"] == ["loss=promptfusion", "backbone=conv_tiny", "clip=micro", "data=folder"]
    assert found["display_name"] == "tiny loss.warmup=1 seed=0"


def test_the_whole_configuration_nested(run: Recorded) -> None:
    (found,) = (entry["update"] for entry in run.all("config"))
    recorded = OmegaConf.to_container(OmegaConf.load(run.folder / "config.yaml"))
    assert found == recorded
    assert found["loss"]["fidelity"]["decomposition_weight"] == 0
    assert len(found["split_sha256"]) == 64
    assert len(found["clip_identity"]["weights_sha256"]) == 64
    assert "git_commit" in found["versions"]


def test_every_row_lies_on_our_axis(run: Recorded) -> None:
    defined = run.all("metric")
    assert defined[0]["name"] == SAMPLES_SEEN
    assert (defined[1]["glob_name"], defined[1]["step_metric"]) == ("*", SAMPLES_SEEN)
    seen = [entry["item"][SAMPLES_SEEN] for entry in run.all("history")]
    assert seen == sorted(seen)
    assert set(seen) == {0, 2, 4, 6, 8, 10, 12}


def test_test_and_best_values_are_flat_in_the_summary(run: Recorded) -> None:
    scores = json.loads((run.folder / "test/metrics.json").read_text())["mean"]
    for name, mean in scores.items():
        if mean is None:
            assert f"test/{name}" not in run.summary
            assert run.summary[f"test/undefined/{name}"] == 2
        else:
            assert run.summary[f"test/{name}"] == pytest.approx(mean)
    best = {key.removeprefix("best/"): value for key, value in run.summary.items() if key.startswith("best/")}
    validations = [row for row in rows(run.folder / "metrics.csv") if row["val/metric/SSIM"]]
    highest = max(validations, key=lambda row: float(row["val/metric/SSIM"]))
    for name, value in best.items():
        key = SAMPLES_SEEN if name == "samples_seen" else f"val/metric/{name}"
        assert value == pytest.approx(float(highest[key])), name
    assert {"SSIM", "MI", "EN", "samples_seen"} <= best.keys()


def test_the_table_of_test_images_has_thumbnails_and_scores(run: Recorded) -> None:
    columns, data = run.table("test/images")
    assert columns[:4] == ["name", "infrared", "visible", "fused"]
    per_image = rows(run.folder / "test/per_image.csv")
    assert [line[0] for line in data] == [row["name"] for row in per_image]
    staged = run.staged()
    for line, row in zip(data, per_image, strict=True):
        for cell in line[1:4]:
            with Image.open(staged[cell["path"]]) as picture:
                assert picture.size == (64, 48)
        for name, score in zip(columns[4:], line[4:], strict=True):
            assert score == (None if row[name] in ("", "nan") else pytest.approx(float(row[name])))
    assert all(path.is_relative_to(run.folder) for path in staged.values())


def test_the_same_samples_are_shown_at_each_validation(run: Recorded) -> None:
    shown = run.history("val/samples")
    assert [entry[SAMPLES_SEEN] for entry in shown] == [6, 12]
    for entry in shown:
        assert entry["val/samples.captions"] == ["val-0", "val-1"]
        for path in entry["val/samples.filenames"]:
            with Image.open(run.files / path) as picture:
                assert picture.height < 200 < picture.width


def test_the_tokens_nearest_to_prompts(run: Recorded) -> None:
    columns, data = run.table("notes/words")
    assert columns == ["update", "name", "text"]
    assert [[str(cell) for cell in line] for line in data] == [
        list(row.values()) for row in rows(run.folder / "notes/words.csv")
    ]
    assert {line[0] for line in data if line[1] == "targets positive"} == {0, 3, 6}
    assert [entry[SAMPLES_SEEN] for entry in run.history("notes.")] == [0, 6, 12]


def test_one_model_with_two_aliases(run: Recorded) -> None:
    (model,) = (artifact for artifact in run.all("artifact") if artifact["type"] == "model")
    assert sorted(model["aliases"]) == ["best", "latest"]
    contents = {content["path"]: Path(content["local_path"]) for content in model["manifest"]["contents"]}
    assert contents.keys() == {"best.ckpt", "last.ckpt"}
    for name, path in contents.items():
        assert path == (run.folder / "checkpoints" / name).resolve()
        assert "state_dict" in torch.load(path, weights_only=True)
    assert json.loads(model["metadata"])["SSIM"] == run.summary["best/SSIM"]


def test_system_metrics(run: Recorded) -> None:
    assert run.all("stats")[0]["item"]["memory_percent"] > 0


def test_it_finished_and_the_printed_command_would_upload_it(run: Recorded) -> None:
    assert run.all("exit")[0]["exit_code"] == 0
    (line,) = (line for line in run.screen.splitlines() if "wandb sync" in line)
    program, *words = shlex.split(line.partition(": ")[2])
    assert program == "wandb"
    plan = subprocess.run([WANDB, *words, "--dry-run"], capture_output=True, text=True, check=True)
    (found,) = run.all("run")
    assert found["run_id"] in plan.stdout + plan.stderr
