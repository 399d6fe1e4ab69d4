import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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


def test_train_help_lists_the_groups(clipfuse: Clipfuse) -> None:
    code, output, _ = clipfuse("train", "--help")
    assert code == 0
    assert "usage: clipfuse train" in output
    groups = dict(line.split(":", 1) for line in output.splitlines() if line.startswith("  "))
    groups = {name.strip(): options.strip() for name, options in groups.items()}
    assert groups["loss"] == "clip_ratio, custom, ldfusion, pixel, promptfusion, weighted_sum"
    assert "conv_tiny, custom" in groups["backbone"]
    assert "settings: name, seed, steps" in output


def test_evaluate_help_lists_its_groups(clipfuse: Clipfuse) -> None:
    code, output, _ = clipfuse("evaluate", "--help")
    assert code == 0
    assert "data:       folder," in output
    assert "loss" not in output


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
