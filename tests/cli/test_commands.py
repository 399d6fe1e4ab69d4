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


@pytest.mark.parametrize("command", ["fuse", "doctor"])
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


def test_train_help_lists_the_groups(clipfuse: Clipfuse, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        clipfuse("train", "--help")
    assert stop.value.code == 0
    output = capsys.readouterr().out
    assert "loss: pixel" in output
    assert "backbone: conv_tiny" in output
