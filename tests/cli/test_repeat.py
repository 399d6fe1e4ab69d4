"""A run is repeated by the line in its folder, and its settings begin another run."""

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from clipfuse.cli.repeat import _settings, group_words, split_from
from clipfuse.errors import UserError
from clipfuse.ops.settings import leaves

Clipfuse = Callable[..., tuple[int, str, str]]
TINY = [
    "data=folder",
    "trainer=cpu",
    "steps=2",
    "validate_every=1",
    "loader.crop_size=32",
    "backbone=conv_tiny",
]
TINY += ["backbone.width=4", "backbone.depth=0", "metrics.test=[EN,SSIM]", "metrics.validation=[SSIM]"]
LOSS = "from clipfuse.losses.pixel import PixelLoss\n\n\nclass Mine(PixelLoss):\n    pass\n"


@pytest.fixture
def start(tmp_path: Path, pairs_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a user: their pairs, their own loss with its configuration."""
    folder = tmp_path / "it's mine"
    folder.mkdir()
    (folder / "pairs").symlink_to(pairs_folder)
    (folder / "mine_here.py").write_text(LOSS)
    (folder / "conf/loss").mkdir(parents=True)
    (folder / "conf/loss/mine.yaml").write_text("_target_: mine_here.Mine\ngradient_weight: 3.0\n")
    monkeypatch.chdir(folder)
    return folder


def only_run(folder: Path) -> Path:
    (run,) = folder.iterdir()
    return run


def settings(run: Path) -> dict[str, Any]:
    """What the configuration holds beside places."""
    flat = leaves(OmegaConf.to_container(OmegaConf.load(run / "config.yaml")))
    text = str(run.relative_to(Path.cwd())) if run.is_relative_to(Path.cwd()) else str(run)
    places = {
        key for key, value in flat.items() if isinstance(value, str) and value.startswith((text, str(run)))
    }
    return {key: value for key, value in flat.items() if key not in {*places, "started_in"}}


def test_the_line_in_a_run_folder_repeats_it_from_another_folder(
    clipfuse: Clipfuse, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAIRS", "pairs")
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    monkeypatch.setenv("CLIPFUSE_API_KEY", "s3cret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    words = [*TINY, "data.root=${oc.env:PAIRS}", "hydra.searchpath=[file://conf]", "loss=mine", "test=true"]
    words += ["name=a b"]
    code, _, errors = clipfuse("train", *words)
    assert code == 0, errors
    run = only_run(start / "runs")
    line = (run / "command.txt").read_text()
    assert "s3cret" not in line
    assert "'data.root=${oc.env:PAIRS}'" in line  # not its value
    assert "CUDA_VISIBLE_DEVICES='' " in line
    assert f"OMP_NUM_THREADS={torch.get_num_threads()} " in line
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(["sh", str(run / "command.txt")], cwd=elsewhere, check=True, timeout=300)
    again = only_run(elsewhere / "runs")
    assert (again / "test/per_image.csv").read_bytes() == (run / "test/per_image.csv").read_bytes()
    assert (again / "metrics.csv").read_bytes() == (run / "metrics.csv").read_bytes()
    assert settings(again) == settings(run)
    assert (again / "command.txt").read_text().partition(" train ")[2] == line.partition(" train ")[2]


def test_a_job_has_the_line_of_this_job_and_variables_that_may_be_secret_by_name(
    clipfuse: Clipfuse, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a job of a sweep is started: with its own folder, and going on where it was."""
    monkeypatch.setenv("MY_TOKEN", "pairs")
    monkeypatch.setenv("PLACE", "at home")
    words = [*TINY, "data.root=${oc.env:MY_TOKEN}", "name=${oc.env:PLACE}", "seed=4", "test=false"]
    code, _, errors = clipfuse("train", *words, "run_dir=sweep/0", "auto_resume=true")
    assert code == 0, errors
    first, second = (start / "sweep/0/command.txt").read_text().splitlines()
    assert second == "# set these variables first: MY_TOKEN PLACE"
    given = shlex.split(first.strip("()").partition("&&")[2])
    assert given[-1].startswith("run_dir=")
    assert given[given.index("train") + 1 : -1] == words
    assert "at home" not in first
    before = first
    assert clipfuse("train", *words, "run_dir=sweep/0", "auto_resume=true", "loader.workers=0")[0] == 0
    assert (start / "sweep/0/command.txt").read_text().splitlines()[0] == before


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    """A run folder, as in an unpacked sweep, of an older version: old names, nothing that came since."""
    run = tmp_path_factory.mktemp("sweep") / "0"
    shutil.copytree(trained, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    for key in ("solver", "ema", "skip_nonfinite", "threads", "started_in", "split_of"):
        del config[key]
    config["callbacks"]["notes"]["_target_"] = "clipfuse.engine.notes.LossNotes"
    config["name"] = "pixel-conv_tiny"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


@pytest.mark.usefixtures("start")
def test_a_run_begins_with_the_settings_of_an_earlier_one(
    clipfuse: Clipfuse, earlier: Path, trained: Path, tmp_path: Path
) -> None:
    code, _, errors = clipfuse("train", "--from", str(earlier), "run_dir=same")
    assert code == 0, errors
    same = Path("same")
    assert (same / "test/per_image.csv").read_bytes() == (trained / "test/per_image.csv").read_bytes()
    code, _, errors = clipfuse(
        "train", f"--from={earlier}", "run_dir=other", "loss=ldfusion", "seed=3", "test=false"
    )
    assert code == 0, errors
    found = settings(Path("other").resolve())
    assert found["loss._target_"] == "clipfuse.losses.ldfusion.LDFusionLoss"
    assert (found["seed"], found["name"], found["backbone.width"]) == (3, "ldfusion-conv_tiny", 8)
    # Overrides behind a choice reach the new loss, and a CLIP the copies of it in the loss.
    code, _, errors = clipfuse(
        *(
            "train",
            "--from",
            "other",
            "run_dir=third",
            "loss.patches=3",
            "test=false",
            "clip.model=no/such.pt",
        )
    )
    assert code == 2
    assert "no/such.pt" in errors
    code, _, errors = clipfuse("train", "--from", "other", "run_dir=third", "loss.patches=3", "test=false")
    assert code == 0, errors
    third = settings(Path("third").resolve())
    assert {key for key, value in third.items() if found.get(key) != value} == {"loss.patches"}
    line = Path("third/command.txt").read_text()
    assert " train --from other loss.patches=3 test=false " in line


def test_links_between_settings_outlive_the_record(clipfuse: Clipfuse, start: Path) -> None:
    """`loss.pictures_every` follows `solver.every`, and `solver.delay` `loss.warmup`, as at first."""
    words = [
        *TINY,
        "backbone=contourlet_tiny",
        "loss=promptfusion",
        "data.root=pairs",
        "test=false",
        "~backbone.width",
    ]
    words = [word for word in words if "width" not in word and "depth" not in word]
    code, _, errors = clipfuse("train", *words, "loss.fidelity.decomposition_weight=0", "run_dir=one")
    assert code == 0, errors
    code, _, errors = clipfuse("train", "--from", "one", "solver.every=3", "loss.warmup=1", "run_dir=two")
    assert code == 0, errors
    found = settings(start / "two")
    assert (found["loss.pictures_every"], found["solver.delay"]) == (3, 1)


@pytest.mark.usefixtures("start")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["foo=1"], "unknown key 'foo' in the settings of "),
        (["loss.gradient_weigt=1"], "Did you mean 'loss.gradient_weight'?"),
        (["loss=pixl"], "unknown loss 'pixl'. Did you mean 'pixel'?"),
        (["steps=["], "cannot read 'steps=['"),
        (["steps=-1"], "steps is -1: input should be greater than or equal to 1"),
        (["experiment=quick"], "instead of experiment=quick give single settings"),
        (["-m", "seed=0,1"], "--from starts one run, and -m several"),
        (["+loss.other=1"], "unknown key 'loss.other'"),
    ],
)
def test_what_does_not_go_with_an_earlier_run(
    clipfuse: Clipfuse, earlier: Path, words: list[str], message: str
) -> None:
    code, _, errors = clipfuse("train", "--from", str(earlier), *words)
    assert code == 2
    assert message in errors.strip().splitlines()[-1]
    assert not Path("runs").exists()


@pytest.mark.usefixtures("start")
def test_a_folder_that_is_no_training_is_refused(clipfuse: Clipfuse, earlier: Path, tmp_path: Path) -> None:
    assert "there is no none/config.yaml" in clipfuse("train", "--from", "none")[2]
    Path("other").mkdir()
    for text, message in {"a: [": "cannot be read", "a: 1": "is not that of a training"}.items():
        Path("other/config.yaml").write_text(text)
        assert message in clipfuse("train", "--from", "other")[2]
    with pytest.raises(UserError, match="needs a run folder"):
        split_from(["--from"])
    for words in (["--config-dir", str(earlier)], [f"-cd={earlier}"]):
        code, _, errors = clipfuse("train", *words, "--config-name", "config")
        assert code == 2
        assert f"take its settings by: clipfuse train --from {earlier}" in errors
    assert sorted(os.listdir()) == ["conf", "mine_here.py", "other", "pairs"]


def test_a_run_of_an_earlier_edition_of_micro_begins_by_it(tmp_path: Path) -> None:
    """Its record means by `clip=micro` the edition of its version."""
    clip = {"_target_": "clipfuse.clip.encoder.FrozenClip.load", "model": "micro"}
    for version, expected in ((1, {**clip, "pretrained": "micro_1"}), (2, clip)):
        identity = {"model": "micro", "pretrained": None, "version": version}
        record = {"loss": {"clip": dict(clip)}, "backbone": {}, "clip": dict(clip), "clip_identity": identity}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(record))
        found = _settings(tmp_path)
        assert {key: value for key, value in found["clip"].items() if value is not None} == expected
        assert found["loss"]["clip"] == "${clip}"


def test_choices_are_composed_and_settings_put_on_top() -> None:
    words = [
        "loss=pixel",
        "loss.gradient_weight=1",
        "~callbacks.best",
        "+loss=pixel",
        "hydra.searchpath=[file://conf]",
        "seed=1",
    ]
    composed = ["loss=pixel", "hydra.searchpath=[file://conf]"]
    assert group_words(words) == (composed, [word for word in words if word not in composed])


def test_trainings_of_one_second_get_folders_of_their_own(
    clipfuse: Clipfuse, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.localtime()
    monkeypatch.setattr("hydra.core.utils.datetime", _Stopped(now))
    for _ in range(3):
        assert clipfuse("train", *TINY, "data.root=pairs", "steps=1", "test=false", "name=x")[0] == 0
    names = sorted(run.name for run in (start / "runs").iterdir())
    assert names == [names[0], f"{names[0]}-2", f"{names[0]}-3"]
    assert clipfuse("train", *TINY, "data.root=absent", "name=x")[0] == 2
    assert sorted(run.name for run in (start / "runs").iterdir()) == names


class _Stopped:
    """A clock that stands still."""

    def __init__(self, now: time.struct_time) -> None:
        self.now_is = now

    def now(self) -> "_Stopped":
        return self

    def strftime(self, pattern: str) -> str:
        return time.strftime(pattern, self.now_is)
