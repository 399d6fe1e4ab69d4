"""What is started gets the composed job, and nothing of the current folder that was not named."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from clipfuse.cli import leave_current_folder, own_place
from clipfuse.cli.launch import split_options
from clipfuse.cli.own import dotted_names, look_in
from clipfuse.runs.folder import read_status

Clipfuse = Callable[..., tuple[int, str, str]]
TRAP = "import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\nraise ImportError('the trap')\n"
LOSS = """
import helper
from clipfuse.losses.pixel import PixelLoss

class Mine(PixelLoss):
    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(gradient_weight=helper.WEIGHT * weight)
"""
SHORT = ["data=folder", "steps=2", "validate_every=2", "loader.batch_size=2", "loader.crop_size=32"]
SHORT += ["backbone=conv_tiny", "backbone.width=4", "backbone.depth=0", "~callbacks.progress"]
SHORT += ["+trainer.enable_progress_bar=false", "metrics.test=[SSIM]"]


@pytest.mark.parametrize(
    ("words", "options", "overrides"),
    [
        (["a=1", "-m", "b=2"], ["-m"], ["a=1", "b=2"]),
        (["a=1", "--config-dir", "x=y", "b=2"], ["--config-dir", "x=y"], ["a=1", "b=2"]),
        (["a=1", "--config-dir=x", "--multirun", "~b"], ["--config-dir=x", "--multirun"], ["a=1", "~b"]),
        (["a=-1", "--cfg", "job"], ["--cfg", "job"], ["a=-1"]),
    ],
)
def test_options_stand_anywhere(words: list[str], options: list[str], overrides: list[str]) -> None:
    assert split_options(words) == (options, overrides)


@pytest.fixture
def trapped(tmp_path: Path) -> Path:
    """A folder with a loss, and with files in it that programs would import or run if they could."""
    folder = tmp_path / "downloaded"
    (folder / "conf/loss").mkdir(parents=True)
    (folder / "mine.py").write_text(LOSS)
    (folder / "helper.py").write_text("WEIGHT = 2.0\n")
    (folder / "conf/loss/theirs.yaml").write_text("_target_: mine.Mine\nweight: 3.0\n")
    installed = (
        "random",
        "statistics",
        "kornia",
        "socket",
        "selectors",
        "tempfile",
        "hashlib",
        "numpy",
        "tqdm",
    )
    absent = ("dill", "sitecustomize", "usercustomize", "pandas", "ray", "psutil", "apex", "cupy", "typing_x")
    for name in (*installed, *absent, "conf/loss/dill", "hydra_plugins/evil/__init__", "hydra_plugins/own"):
        (folder / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(TRAP)
    return folder


def ran(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.ran"))


def start(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=folder, text=True, capture_output=True, timeout=600, check=False
    )


def test_the_current_folder_leaves_the_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever put it there: `python -m`, or PYTHONPATH=. with or without a link in its name."""
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    Path("link").symlink_to("here")
    monkeypatch.chdir("here")
    kept = [str(tmp_path), "/usr/lib/python3"]
    monkeypatch.setattr(sys, "path", ["", str(tmp_path / "here"), *kept, str(tmp_path / "link"), "."])
    monkeypatch.setenv("PYTHONSAFEPATH", "")  # so that it is taken back
    leave_current_folder()
    assert sys.path == kept
    assert os.environ["PYTHONSAFEPATH"] == "1"
    monkeypatch.chdir(own_place())
    monkeypatch.setattr(sys, "path", ["", *kept])
    leave_current_folder()
    assert sys.path == [*kept, own_place()]


def test_a_module_is_found_if_it_is_named_or_belongs_to_one_that_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "meta_path", sys.meta_path[:])
    (tmp_path / "clipfuse_t_named.py").write_text("import clipfuse_t_beside\n")
    (tmp_path / "clipfuse_t_beside.py").write_text("def later():\n    import clipfuse_t_later\n")
    (tmp_path / "clipfuse_t_later.py").write_text("")
    (tmp_path / "clipfuse_t_other.py").write_text("raise SystemError\n")
    (tmp_path / "clipfuse_t_package/deep").mkdir(parents=True)
    (tmp_path / "clipfuse_t_package/deep/leaf.py").write_text("")
    look_in(str(tmp_path), ["clipfuse_t_named.Loss", "clipfuse_t_package.deep.leaf.Loss", "torch.optim.Adam"])
    for name in ("clipfuse_t_other", "clipfuse_t_beside", "clipfuse_t_later"):
        with pytest.raises(ModuleNotFoundError):
            import_module(name)
    import_module("clipfuse_t_named")
    import_module("clipfuse_t_package.deep.leaf")
    sys.modules["clipfuse_t_beside"].later()
    with pytest.raises(ModuleNotFoundError):
        import_module("clipfuse_t_other")


def test_names_are_found_at_any_depth() -> None:
    config = {
        "loss": {"_target_": "a.B", "of": [{"path": "c.d.E"}]},
        "name": "x-y.z",
        "own": ["f.g"],
        "n": 1.5,
    }
    assert list(dotted_names(config)) == ["a.B", "c.d.E", "f.g"]


def test_ranks_of_jobs_of_a_sweep_take_nothing_else_from_the_current_folder(
    trapped: Path, pairs_folder: Path
) -> None:
    """Their configuration comes by --config-dir, their loss and its helper from the current folder."""
    words = ["-m", "clipfuse", "train", *SHORT, f"data.root={pairs_folder}", "--config-dir", "conf", "-m"]
    words += ["loss=theirs", "trainer=ddp_cpu", "seed=1", "hydra.sweep.dir=s", "test=false"]
    words += ["hydra.launcher.max_parallel=2", "+hydra.job.env_set.CLIPFUSE_TEST=set"]
    done = start(*words, folder=trapped)
    log = (trapped / "s/0/log.txt").read_text() if (trapped / "s/0/log.txt").exists() else ""
    assert done.returncode == 0, done.stdout + done.stderr + log
    assert ran(trapped) == []
    config = OmegaConf.load(trapped / "s/0/config.yaml")
    assert (config.seed, config.loss) == (1, {"_target_": "mine.Mine", "weight": 3.0})
    assert config.name == "theirs-conv_tiny"
    status = read_status(trapped / "s/0")
    assert (status["status"], status["samples_seen"]) == ("finished", 2 * 2 * 2)


def test_a_training_and_an_evaluation_take_the_named_loss_alone(trapped: Path, pairs_folder: Path) -> None:
    script = "import sys; from clipfuse.cli.__main__ import main; sys.exit(main())"
    loss = ["loss=custom", "loss._target_=mine.Mine", "+loss.weight=2", "trainer=cpu", "run_dir=run"]
    train = ["-P", "-c", script, "train", *SHORT, *loss, f"data.root={pairs_folder}", "test=false"]
    done = start(*train, folder=trapped)
    assert done.returncode == 0, done.stderr
    assert OmegaConf.load(trapped / "run/config.yaml").loss.weight == 2
    evaluate = [
        "evaluate",
        "checkpoint=run/checkpoints/last.ckpt",
        "data=folder",
        f"data.root={pairs_folder}",
    ]
    evaluate += ["trainer=cpu", "run_dir=scores", "metrics.test=[SSIM]", "loader.workers=1"]
    done = start("-m", "clipfuse", *evaluate, folder=trapped)
    assert done.returncode == 0, done.stderr
    assert json.loads((trapped / "scores/test/metrics.json").read_text())["mean"]["SSIM"] > 0
    assert ran(trapped) == []


@pytest.mark.parametrize("way", ["script", "notebook"])
def test_plugins_beside_a_program_are_not_hydras(tmp_path: Path, way: str) -> None:
    """A program's own folder is first on its import path, and stays there."""
    (tmp_path / "hydra_plugins/evil").mkdir(parents=True)
    (tmp_path / "hydra_plugins/evil/__init__.py").write_text(TRAP)
    code = "import sys, clipfuse\ntry:\n    clipfuse.train('steps=0')\nexcept clipfuse.UserError as error:\n"
    code += "    sys.exit(f'{error} {sys.path[0]!r}')\n"
    (tmp_path / "program.py").write_text(code)
    done = start(*(["program.py"] if way == "script" else ["-c", code]), folder=tmp_path)
    assert "steps is 0" in done.stderr
    assert done.stderr.strip().endswith(repr(str(tmp_path)) if way == "script" else "''")
    assert ran(tmp_path) == []
