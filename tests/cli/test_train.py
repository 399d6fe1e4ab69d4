"""The words of a sweep that goes on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from clipfuse.cli import train
from clipfuse.errors import UserError

Clipfuse = Callable[..., tuple[int, str, str]]
WORDS = ["seed=0,1", "steps=7", "hydra.launcher.max_parallel=2", "hydra.mode=MULTIRUN", "hydra.sweep.dir=old"]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("it's").mkdir()
    Path("it's/sweep.yaml").write_text(yaml.safe_dump({"words": WORDS, "jobs": {0: ["seed=0"]}}))
    return "it's"


@pytest.mark.parametrize(
    ("new", "kept"),
    [
        ((), ["seed=0,1", "steps=7", "hydra.launcher.max_parallel=2"]),
        (("-m", "steps=7"), ["seed=0,1", "steps=7", "hydra.launcher.max_parallel=2"]),
        (("hydra.launcher.max_parallel=1",), ["seed=0,1", "steps=7"]),
        (("hydra/launcher=ray",), ["seed=0,1", "steps=7"]),
    ],
)
def test_what_is_run_stays_and_how_it_is_run_may_change(
    sweep: str, new: tuple[str, ...], kept: list[str]
) -> None:
    words = train._resumed([f"sweep.resume={sweep}", *new])
    how = [word for word in new if word.startswith("hydra")]
    assert words == ["-m", *kept, *how, "hydra.sweep.dir='it\\'s'"]


def test_a_setting_that_was_not_among_them_is_refused(sweep: str) -> None:
    with pytest.raises(UserError, match=r"steps=8 is not among those in it's/sweep\.yaml"):
        train._resumed([f"sweep.resume={sweep}", "steps=8"])


def test_only_a_sweep_is_handed_to_the_launcher(monkeypatch: pytest.MonkeyPatch, sweep: str) -> None:
    ran = []
    monkeypatch.setattr(train, "run_hydra", lambda name, words, *tasks: ran.append((name, words)))
    train.main(["steps=3"])
    train.main([f"sweep.resume={sweep}"])
    assert ran[0] == ("train", ["steps=3"])
    assert ran[1][1][0] == "-m"


def test_a_sweep_goes_on_where_it_was_started(
    sweep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load(Path("it's/sweep.yaml").read_text())
    options = ["--config-dir", "mine"]
    start = str(tmp_path / "start")
    record = yaml.safe_dump({**content, "options": options, "started_in": start})
    Path("it's/sweep.yaml").write_text(record)
    assert train._resumed(["sweep.resume=it's"])[-1] == "hydra.sweep.dir='it\\'s'"
    assert f"{start}, where it's was started, is not here" in capsys.readouterr().out
    Path("start/s").mkdir(parents=True)
    Path("start/s/sweep.yaml").write_text(record)
    words = train._resumed(["sweep.resume=start/s"])
    assert words[:3] == [*options, "-m"]
    assert words[-1] == "hydra.sweep.dir='s'"
    assert Path.cwd() == tmp_path / "start"
    monkeypatch.chdir(tmp_path)
    assert train._resumed(["sweep.resume=it's"])[-1] == f"hydra.sweep.dir='{tmp_path}/it\\'s'"


def test_a_loss_gets_the_names_of_a_file_of_classes(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("ground\nperson\n")
    config = OmegaConf.create(
        {
            "data": {"root": str(tmp_path), "labels": {"classes": "classes.txt"}},
            "loss": {"classes": "${oc.select:data.labels.classes,16}"},
        }
    )
    train._name_classes(config)
    assert list(config.loss.classes) == ["ground", "person"]
    train._name_classes(config)  # names stay
    assert list(config.data.labels.classes) == ["ground", "person"]
    for data in ({}, {"labels": None}, {"labels": "oops"}, None):
        train._name_classes(OmegaConf.create({"data": data}))  # which other checks judge
    config.data.labels.classes = "none.txt"
    with pytest.raises(UserError, match=r"data\.labels\.classes=none\.txt: no such file"):
        train._name_classes(config)
