import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from omegaconf import OmegaConf

from clipfuse import compare, train
from clipfuse.errors import UserError

TINY = ("trainer=cpu", "data=folder", "backbone=conv_tiny", "backbone.width=8", "backbone.depth=1")
SHORT = ("steps=2", "validate_every=2", "loader.batch_size=2", "loader.crop_size=32", "metrics.test=[SSIM]")
QUIET = ("~callbacks.progress", "+trainer.enable_progress_bar=false")


@pytest.fixture
def words(pairs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLIPFUSE_DATA", raising=False)
    return (*TINY, *SHORT, *QUIET, f"data.root={pairs_folder}")


@pytest.fixture
def hydra_program(tmp_path: Path) -> Iterator[None]:
    """The state of a program that is inside of its own `@hydra.main`."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/app.yaml").write_text("loss: theirs\n")
    before = dict(Singleton._instances)
    OmegaConf.register_new_resolver("theirs", lambda: 5, replace=True)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(tmp_path / "theirs"), version_base="1.2"):
            config = compose("app", return_hydra_config=True)
            HydraConfig.instance().set_config(config)
            yield
    finally:
        Singleton._instances.clear()
        Singleton._instances.update(before)
        GlobalHydra.instance().clear()  # the instance of before was changed
        OmegaConf.clear_resolver("theirs")


def state() -> dict[str, Any]:
    return {
        "environment": dict(os.environ),
        "arguments": sys.argv[:],
        "path": sys.path[:],
        "folder": os.getcwd(),
        "random": torch.random.get_rng_state().tolist(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "filters": warnings.filters[:],
        "level": logging.getLogger("lightning.pytorch").level,
        "hydra": {
            kind: id(each) for kind, each in Singleton._instances.items() if kind.__name__ != "Plugins"
        },
    }


def test_a_training_in_a_program_that_uses_hydra(words: tuple[str, ...], hydra_program: None) -> None:
    before = state()
    run = train(*words)
    assert state() == before
    assert compose("app").loss == "theirs"  # its own Hydra goes on
    assert HydraConfig.get().job.config_name == "app"
    assert OmegaConf.create({"a": "${theirs:}"}).a == 5
    assert run.path.parent == Path.cwd() / "runs"
    assert run.path.name.endswith("-pixel-conv_tiny")
    assert json.loads((run.path / "status.json").read_text())["status"] == "finished"
    assert run.scores["SSIM"] != run.objective  # a score of the validation
    planes = torch.rand(2, 1, 1, 20, 24)
    assert run.network(*planes).fused.shape == planes[0].shape
    assert not run.network.training

    again = train(*words, "seed=1", "run_dir=second")
    assert again.path == Path.cwd() / "second"
    assert again.scores != run.scores
    found = compare(run, again.path, trivial=False)
    assert {record["seeds"] for record in found.table} == {2}


def test_a_training_without_a_test(words: tuple[str, ...]) -> None:
    run = train(*words, "test=false", "objective=val/metric/SSIM", "run_dir=untested")
    assert run.scores == {}
    assert run.objective is not None


def test_parts_of_a_sum_are_composed(words: tuple[str, ...]) -> None:
    parts = ("loss=weighted_sum", "+loss.parts={pixel:1}", "+loss.of.pixel.gradient_weight=3")
    run = train(*words, *parts, "run_dir=sum")
    config = OmegaConf.load(run.path / "config.yaml")
    assert config.loss.of.pixel.gradient_weight == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("los=pixel",), "unknown key 'los'. Did you mean 'loss'?"),
        (("loss=pixle",), "unknown loss 'pixle'. Did you mean 'pixel'?"),
        (("steps=0",), "steps is 0: input should be greater than or equal to 1"),
        (("backbone.widht=3",), "unknown key 'backbone.widht'. Did you mean 'backbone.width'?"),
        (("-m",), "-m is an option of the command line"),
        ((7,), "7 is no override"),
        (("trainer=ddp_cpu",), "from Python a training uses one device"),
        (("data.root=nowhere",), "nowhere"),
        (("hydra.searchpath=[file://nowhere]",), "hydra.searchpath: there is no nowhere"),
    ],
)
def test_mistakes_are_explained_and_leave_nothing(
    words: tuple[str, ...], overrides: tuple[Any, ...], message: str
) -> None:
    before = state()
    with pytest.raises(UserError) as error:
        train(*words, *overrides)
    assert message in str(error.value)
    assert state() == before
    assert not Path("runs").exists()


def test_a_mistake_of_the_program_keeps_its_kind(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise ValueError("a fault of ours")

    monkeypatch.setattr("clipfuse.runs.train.find_start", broken)
    before = state()
    with pytest.raises(ValueError, match="a fault of ours"):
        train(*words)
    assert state() == before
