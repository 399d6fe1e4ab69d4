import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from clipfuse.cli.options import conf_dir
from clipfuse.runs.train import EvaluateSettings, TrainSettings

Clipfuse = Callable[..., tuple[int, str, str]]


def test_help_is_quick() -> None:
    """Under 0.3 s of CPU time, and neither torch nor hydra is imported."""
    code = (
        "import sys; from clipfuse.cli.__main__ import main; main(['--help']); "
        "sys.exit(bool({'torch', 'hydra', 'lightning', 'numpy', 'wandb'} & set(sys.modules)))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0
    assert "usage: clipfuse COMMAND" in result.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3


@pytest.mark.parametrize("command", ["fuse", "doctor", "new-loss"])
def test_each_command_has_help(clipfuse: Clipfuse, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        clipfuse(command, "--help")
    assert stop.value.code == 0
    assert f"usage: clipfuse {command}" in capsys.readouterr().out


def test_doctor_finds_this_machine_ready(
    clipfuse: Clipfuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output, _ = clipfuse("doctor")
    assert code == 0
    assert "MISSING" not in output
    assert "ready: clipfuse train experiment=quick" in output


def test_doctor_names_what_is_missing(clipfuse: Clipfuse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia", None)
    code, output, _ = clipfuse("doctor")
    assert code == 2
    assert any("MISSING" in line and "kornia" in line for line in output.splitlines())


@pytest.mark.parametrize(("name", "settings"), [("train", TrainSettings), ("evaluate", EvaluateSettings)])
def test_help_explains_every_setting_group_and_option(clipfuse: Clipfuse, name: str, settings: type) -> None:
    code, output, _ = clipfuse(name, "--help")
    assert code == 0
    assert f"usage: clipfuse {name} [group=option ...]" in output
    assert max(map(len, output.splitlines())) <= 100
    above, below = output.split("\ngroups (* marks the default):\n")
    explained = dict(re.findall(r"^  (\w+)=\S+ +(\S.*)$", above, flags=re.MULTILINE))
    assert explained.keys() == set(settings.__annotations__)
    groups = dict(re.findall(r"^  ([\w/]+): \S.*\n((?:  [ *] .*\n)+)", f"{below}\n", flags=re.MULTILINE))
    composed = yaml.safe_load((conf_dir() / f"{name}.yaml").read_text())["defaults"]
    assert groups.keys() - {"hydra/launcher"} == {
        key for entry in composed if isinstance(entry, dict) for key in entry if "override" not in key
    }
    for group, listed in groups.items():
        options = re.findall(r"^  ([ *]) (\w+)\s+(\S.*)$", listed, flags=re.MULTILINE)
        files = sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
        assert [option for _, option, _ in options] == files
        assert sum(mark == "*" for mark, _, _ in options) <= 1
    line = {
        "train": "  * pixel             the brighter value, the stronger edge; no CLIP",
        "evaluate": "  * none              no curves",
    }
    assert line[name] in output.splitlines()


def test_a_loss_of_the_users_own_trains_from_the_current_folder(
    clipfuse: Clipfuse, pairs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_loss.py").write_text(
        "from clipfuse.losses.base import FusionLoss\n"
        "from clipfuse.types import LossInputs, LossOutput\n"
        "class MyLoss(FusionLoss):\n"
        "    def __init__(self, weight: float) -> None:\n"
        "        super().__init__()\n"
        "        self.weight = weight\n"
        "    def forward(self, inputs: LossInputs) -> LossOutput:\n"
        "        distance = (inputs.fused - inputs.visible).abs().mean()\n"
        "        return LossOutput(self.weight * distance, {'distance': distance.detach()})\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "my_loss", sys)  # so that it is forgotten afterwards
    del sys.modules["my_loss"]
    words = [
        "train",
        "loss=custom",
        "loss._target_=my_loss.MyLoss",
        "trainer=cpu",
        "data=folder",
        "run_dir=run",
    ]
    words += [f"data.root={pairs_folder}", "loader.crop_size=32", "steps=2", "validate_every=2", "test=false"]
    words += ["trainer.log_every_n_steps=1"]
    assert clipfuse(*words, "+loss.weight=2")[0] == 0
    header = Path("run/metrics.csv").read_text().splitlines()[0]
    assert "train/loss/my_loss/distance" in header
    code, _, errors = clipfuse(*words, "+loss.weight=heavy", "overwrite=true")
    assert code == 2
    assert "loss.weight is 'heavy'" in errors
