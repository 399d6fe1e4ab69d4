"""Folders on the search path: each has an effect, or is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

Clipfuse = Callable[..., tuple[int, str, str]]
MINE = "_target_: clipfuse.losses.pixel.PixelLoss\nssim_weight: 0.25\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of somebody's: `conf` hides a loss and an experiment of ours, `empty` holds nothing."""
    monkeypatch.chdir(tmp_path)
    for name in ("conf/loss/pixel", "conf/loss/mine", "conf/experiment/quick"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(f"{name}.yaml").write_text(MINE)
    Path("empty").mkdir()
    Path("modules").mkdir()
    Path("modules/mine.py").touch()


SEARCH = "hydra.searchpath=[file://conf]"
QUICK = "# @package _global_\nsteps: 2\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (SEARCH, "loss=pixel"),
            "loss/pixel.yaml has the same name and comes first; give yours another name",
        ),
        ((SEARCH,), "conf/loss/pixel.yaml has no effect: "),
        (("hydra.searchpath=[conf]",), "as loss/my_pixel.yaml"),
        (("--config-dir", "conf"), "conf/loss/pixel.yaml has no effect: "),
        ((SEARCH, "loss=mine", "experiment=quick"), "conf/experiment/quick.yaml has no effect: "),
        (
            (SEARCH, "loss=weighted_sum", "+loss.parts={mine:1,pixel:1}"),
            "conf/loss/pixel.yaml has no effect: ",
        ),
        (("-m", SEARCH, "seed=0,1", "hydra.sweep.dir=s"), "conf/loss/pixel.yaml has no effect: "),
        (("-m", SEARCH, "loss=mine,pixel", "hydra.sweep.dir=s"), "conf/loss/pixel.yaml has no effect: "),
        (("hydra.searchpath=[file://empty]",), "empty holds no configuration, as loss/my_loss.yaml"),
        (("hydra.searchpath=[empty]",), "as in 'hydra.searchpath=[file://my/conf]'"),
        (
            ("hydra.searchpath=[conf/los]",),
            "there is no conf/los; expected a folder, as in 'hydra.searchpath=",
        ),
        (("hydra.searchpath=[file://gone]",), "there is no gone; expected a folder, as in"),
        (("hydra.searchpath=[pkg://gone.conf]",), "there is no gone.conf; expected a folder, as in"),
        (("hydra.searchpath=[fil://conf]",), "'fil' of hydra.searchpath is no kind of place; expected"),
        (("--config-dir", "gone"), "gone' not found"),
    ],
)
def test_what_has_no_effect_is_refused(clipfuse: Clipfuse, words: tuple[str, ...], message: str) -> None:
    code, _, errors = clipfuse("train", *words)
    assert code == 2
    assert message in errors.strip().splitlines()[-1]
    assert not list(Path().glob("runs*"))
    assert not Path("s").exists()


@pytest.mark.parametrize(
    "words",
    [
        (SEARCH, "loss=mine"),
        ("hydra.searchpath=[conf]", "loss=mine"),
        ("--config-dir", "conf", "loss=mine"),
        ("loss=mine", "--config-dir=conf"),
        ("hydra.searchpath=[file://modules]", "loss=custom", "loss._target_=mine.Absent"),
    ],
)
def test_what_has_an_effect_is_taken(clipfuse: Clipfuse, words: tuple[str, ...]) -> None:
    """They stop at the number of steps, which is checked after the composition."""
    code, _, errors = clipfuse("train", *words, "steps=0")
    assert code == 2
    last = errors.strip().splitlines()[-1]
    assert "steps is 0" in last or "module 'mine' has no attribute 'Absent'" in last


def test_a_copy_of_our_file_hides_nothing(clipfuse: Clipfuse) -> None:
    from clipfuse.cli.options import conf_dir

    Path("conf/loss/pixel.yaml").write_bytes((conf_dir() / "loss/pixel.yaml").read_bytes())
    assert "steps is 0" in clipfuse("train", SEARCH, "steps=0")[2]


def test_a_main_configuration_of_ones_own(clipfuse: Clipfuse) -> None:
    Path("conf/my_train.yaml").write_text("defaults: [train, _self_, {override loss: mine}]\nsteps: 0\n")
    code, _, errors = clipfuse("train", "--config-dir", "conf", "--config-name", "my_train")
    assert (code, "steps is 0" in errors) == (2, True)
    assert OmegaConf.load("conf/my_train.yaml").steps == 0
