"""The first words of the command line, and what any error comes to."""

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from clipfuse import __version__
from clipfuse.cli import __main__ as cli
from clipfuse.errors import UserError

Clipfuse = Callable[..., tuple[int, str, str]]


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException | int | None], None]:
    """Let `clipfuse doctor` raise, or return, what is given."""

    def replace(outcome: BaseException | int | None) -> None:
        def main(words: list[str]) -> int | None:
            assert words == ["--loud"]
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setitem(sys.modules, "clipfuse.cli.doctor", SimpleNamespace(main=main))

    return replace


@pytest.mark.parametrize(("words", "code"), [((), 2), (("-h",), 0), (("--help",), 0)])
def test_help_lists_every_command(clipfuse: Clipfuse, words: tuple[str, ...], code: int) -> None:
    found, output, _ = clipfuse(*words)
    assert found == code
    assert all(f"  {name} " in output and text in output for name, text in cli.COMMANDS.items())


@pytest.mark.parametrize("words", [(), *[(command,) for command in cli.COMMANDS]])
def test_the_version_is_that_of_the_package(clipfuse: Clipfuse, words: tuple[str, ...]) -> None:
    assert clipfuse(*words, "--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize("words", [(), ("--version",), ("trian",)])
def test_python_m_clipfuse_is_the_command(clipfuse: Clipfuse, words: tuple[str, ...]) -> None:
    ours = subprocess.run([sys.executable, "-m", "clipfuse", *words], capture_output=True, text=True)
    assert (ours.returncode, ours.stdout, ours.stderr) == clipfuse(*words)


@pytest.mark.parametrize(("outcome", "code"), [(None, 0), (0, 0), (2, 2)])
def test_the_exit_code_is_the_commands(
    clipfuse: Clipfuse, doctor: Callable[..., None], outcome: int | None, code: int
) -> None:
    doctor(outcome)
    assert clipfuse("doctor", "--loud")[0] == code


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("steps is -1; expected 1 or more"), 2, "steps is -1; expected 1 or more"),
        (UserError("a\x1b[2Jb\nc"), 2, r"a\x1b[2Jb\nc"),
        (OSError(28, "No space left on device", "runs/a"), 2, "runs/a: No space left on device"),
        (OSError("odd"), 2, "odd"),
        (MemoryError(), 2, "MemoryError: not enough memory for doctor"),
        (OSError(), 2, "OSError"),
        (KeyboardInterrupt(), 130, None),
    ],
)
def test_an_error_is_one_line_unless_the_traceback_is_asked_for(
    clipfuse: Clipfuse, doctor: Callable[..., None], error: BaseException, code: int, line: str | None
) -> None:
    doctor(error)
    told = "clipfuse: interrupted" if line is None else f"clipfuse: error: {line}"
    assert clipfuse("doctor", "--loud") == (code, "", f"{told}\n")
    with pytest.raises(type(error)):
        clipfuse("doctor", "--debug", "--loud")


def test_what_is_no_mistake_of_the_user_keeps_its_traceback(
    clipfuse: Clipfuse, doctor: Callable[..., None]
) -> None:
    doctor(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        clipfuse("doctor", "--loud")


def test_a_command_that_is_nearly_one(clipfuse: Clipfuse) -> None:
    code, _, errors = clipfuse("trian")
    assert code == 2
    assert "unknown command 'trian'. Did you mean 'train'? Commands: train, " in errors
