"""A secret of the environment is used in memory, and gets into no file and no line on the screen."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from clipfuse.errors import UserError
from clipfuse.networks.checkpoints import read_checkpoint

Clipfuse = Callable[..., tuple[int, str, str]]
SECRET = "s3cr3t-Zq8vTg"
ENV = "${oc.env:CLIPFUSE_TEST_SECRET}"
OWN = """
import os, pathlib
import lightning as L
from clipfuse.losses.pixel import PixelLoss

class Loss(PixelLoss):
    def __init__(self, token: str, options: dict, weight: float) -> None:
        super().__init__(gradient_weight=weight)
        assert token == options["nested"][0] == os.environ["CLIPFUSE_TEST_SECRET"]
        if os.environ.get("CLIPFUSE_TEST_FAIL") == "build":
            raise ValueError(f"the service refused {token}")
        self.calls = 0

    def forward(self, inputs):
        if os.environ.get("CLIPFUSE_TEST_FAIL") == "run":
            raise RuntimeError(f"no connection as Bearer {os.environ['CLIPFUSE_TEST_SECRET']}")
        return super().forward(inputs)

class Callback(L.Callback):
    def __init__(self, url: str) -> None:
        assert url == f"https://{os.environ['CLIPFUSE_TEST_SECRET']}@host"
"""


@pytest.fixture
def words(pairs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("clipfuse.errors._HIDDEN", {})
    monkeypatch.setenv("CLIPFUSE_TEST_SECRET", SECRET)
    monkeypatch.setenv("CLIPFUSE_TEST_WEIGHT", "3")
    monkeypatch.setenv("CLIPFUSE_TEST_DATA", str(pairs_folder))
    monkeypatch.setenv("WANDB_MODE", "offline")
    Path("secret_own.py").write_text(OWN)
    Path("conf/experiment").mkdir(parents=True)
    Path("conf/experiment/mine.yaml").write_text(
        "# @package _global_\ncallbacks:\n"
        f"  own: {{_target_: secret_own.Callback, url: 'https://{ENV}@host'}}\n"
    )
    words = ["train", "data=folder", "data.root=${oc.env:CLIPFUSE_TEST_DATA}", "trainer=cpu", "steps=2"]
    words += ["validate_every=1", "loader.crop_size=32", "loader.batch_size=2", "backbone=conv_tiny"]
    words += ["backbone.width=4", "backbone.depth=0", "~callbacks.progress", "metrics.test=[SSIM]"]
    words += ["+trainer.enable_progress_bar=false", "loss=custom", "loss._target_=secret_own.Loss"]
    words += [f"+loss.token={ENV}", f"+loss.options={{nested: [{ENV}]}}", "experiment=mine"]
    return [*words, "+loss.weight=${oc.env:CLIPFUSE_TEST_WEIGHT}", "--config-dir", "conf"]


def leaks(folder: Path) -> list[str]:
    """The files, and the members of zips, that hold the secret."""
    found = [str(path) for path in folder.rglob("*") if SECRET in str(path)]
    for path in (path for path in folder.rglob("*") if path.is_file()):
        contents = [path.read_bytes()]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                contents += [archive.read(name) for name in archive.namelist()]
        found += [str(path)] * any(SECRET.encode() in content for content in contents)
    return found


def test_a_run_its_trackers_its_repetition_and_its_comparison(
    clipfuse: Clipfuse, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    code, output, errors = clipfuse(*words, "logger=[wandb,tensorboard]", "run_dir=run")
    assert code == 0, errors
    config = OmegaConf.to_container(OmegaConf.load("run/config.yaml"), resolve=False)
    loss = {"token": ENV, "options": {"nested": [ENV]}, "weight": 3.0, "_target_": "secret_own.Loss"}
    assert config["loss"] == loss
    assert config["data"]["root"] == "${oc.env:CLIPFUSE_TEST_DATA}"
    assert config["callbacks"]["own"]["url"] == f"https://{ENV}@host"
    checkpoint = read_checkpoint("run/checkpoints/last.ckpt")
    assert checkpoint["clipfuse"]["config"]["loss"] == loss
    # It goes on, with the unresolved settings as with the resolved ones of an older run.
    again = [
        *words,
        "run_dir=longer",
        "checkpoint=run/checkpoints/last.ckpt",
        "steps=4",
        "scheduler=constant",
    ]
    assert "its scheduler._target_ is" in clipfuse(*again)[2]
    code, more, errors = clipfuse(*words, "run_dir=run", "auto_resume=true", "logger=[wandb,tensorboard]")
    assert "nothing is left to do" in more, errors
    code, table, _ = clipfuse("compare", "run", "--html", "report.html")
    assert code == 0
    for pattern in ("*.wandb", "*tfevents*", "report.html"):  # which hold texts that a search finds
        assert b"CLIPFUSE_TEST_SECRET" in next(Path().rglob(pattern)).read_bytes()
    monkeypatch.setenv("CLIPFUSE_TEST_SECRET", "another")
    assert "its loss.token is" not in clipfuse(*words, "run_dir=run", "auto_resume=true")[2]
    assert leaks(tmp_path) == []
    assert SECRET not in output + errors + more + table


def test_a_sweep_and_its_jobs(clipfuse: Clipfuse, words: list[str], tmp_path: Path) -> None:
    code, output, errors = clipfuse(*words, "-m", "seed=0", "hydra.sweep.dir=s", "test=false")
    assert code == 0, errors + Path("s/0/log.txt").read_text()
    assert ENV in Path("s/.jobs/0.yaml").read_text()
    assert ENV in Path("s/sweep.yaml").read_text()
    assert leaks(tmp_path) == []
    assert SECRET not in output + errors


@pytest.mark.parametrize("place", ["build", "run"])
def test_messages(
    clipfuse: Clipfuse, words: list[str], tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPFUSE_TEST_FAIL", place)
    if place == "build":
        code, _, errors = clipfuse(*words, "run_dir=run")
        assert (code, f"loss: the service refused {ENV}" in errors) == (2, True)
        code, _, errors = clipfuse(*words, "run_dir=run", f"loss.weight={ENV}")
        assert (code, f"loss.weight is '{ENV}': input should be a valid number" in errors) == (2, True)
        assert SECRET not in errors
    else:
        code, _, errors = clipfuse(*words, "run_dir=run")
        reason = json.loads(Path("run/status.json").read_text())["reason"]
        assert f"RuntimeError: no connection as Bearer {ENV}" in reason
        assert code == 2
        assert SECRET not in errors
        assert ENV in Path("run/traceback.txt").read_text()
    assert leaks(tmp_path) == []


def test_names_of_files_are_shown(clipfuse: Clipfuse, words: list[str], pairs_folder: Path) -> None:
    _, _, errors = clipfuse(*words, "data.root=${oc.env:CLIPFUSE_TEST_DATA}/gone", "run_dir=run")
    assert f"{pairs_folder}/gone" in errors


def test_a_network_must_be_in_its_record(
    clipfuse: Clipfuse, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPFUSE_TEST_CLASS", "clipfuse.backbones.conv_tiny.ConvTiny")
    target = "backbone._target_=${oc.env:CLIPFUSE_TEST_CLASS}"
    code, _, errors = clipfuse(*words, target, "run_dir=run")
    assert (code, "backbone._target_ is ${oc.env:CLIPFUSE_TEST_CLASS}, which no record" in errors) == (
        2,
        True,
    )
    code, _, errors = clipfuse(
        *words, "backbone.width=${oc.env:CLIPFUSE_TEST_WEIGHT}", "run_dir=run", "steps=1"
    )
    assert code == 0, errors
    assert OmegaConf.load("run/config.yaml").backbone.width == 3


def test_without_the_variable_it_is_named(
    clipfuse: Clipfuse, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLIPFUSE_TEST_SECRET")
    code, _, errors = clipfuse(*words, "run_dir=run")
    assert (code, "CLIPFUSE_TEST_SECRET" in errors, "Traceback" in errors) == (2, True, False)


def test_an_error_keeps_what_was_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    from clipfuse import errors

    monkeypatch.setattr(errors, "_HIDDEN", {})
    errors.hide({"abcdef": "X", "abcdefgh": "Y", "abc": "Z", "/": "W"})
    assert str(UserError("abcdefgh abcdef abc /")) == "Y X abc /"
