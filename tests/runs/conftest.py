"""A table of the faults that tests have provoked, for `experiments/reliability/README.md`."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from clipfuse.errors import UserError
from clipfuse.networks.checkpoints import read_checkpoint

BEGIN, END = "<!-- faults -->", "<!-- end of faults -->"
COLUMNS = ("tried", "lost", "wrong", "traceback", "hang")
LIMIT_S = 180  # for one fault, after which it counts as a hang; the slowest takes some ten seconds


class Lost(AssertionError):
    """A good checkpoint is gone."""


class Printed(AssertionError):
    """A traceback has reached the user."""


class Hang(BaseException):
    """No answer within the limit; no `except Exception` of what hangs can swallow it."""


class Attempt:
    """A fault while it is provoked.

    Attributes:
        message: what the user was shown, for the table.
    """

    message = ""

    def keeps(self, run_dir: Path, *updates: int) -> None:
        """Require that the last checkpoint can be read, and is of one of these updates."""
        try:
            saved = int(read_checkpoint(run_dir / "checkpoints" / "last.ckpt")["global_step"])
        except Exception as error:
            raise Lost(f"{run_dir}: the last checkpoint cannot be read") from error
        if saved < min(updates):
            raise Lost(f"{run_dir}: the last checkpoint is of update {saved}, an older one than {updates}")
        assert saved in updates

    def shows_no_traceback(self, output: str) -> None:
        """Require that the user was shown no traceback."""
        if "Traceback" in output:
            raise Printed(output)


class FaultTable:
    """Counts how the faults ended that were tried: each as it should, or in one of the other ways."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self.limit_s = limit_s
        self.rows: dict[str, dict[str, int]] = {}
        self.messages: dict[str, str] = {}

    def add(self, fault: str, message: str, **counts: int) -> None:
        """Count what another process has provoked, by the names in `COLUMNS`."""
        row = self.rows.setdefault(fault, dict.fromkeys(COLUMNS, 0))
        for column, count in counts.items():
            row[column] += count
        self.messages[fault] = message or self.messages.get(fault, "")

    @contextmanager
    def provoke(self, fault: str) -> Iterator[Attempt]:
        """Count one fault, and how the block ends that provokes it and checks what comes of it.

        Another exception than `UserError` is what the user sees as a traceback.
        """
        attempt, end = Attempt(), {}
        try:
            with answer_within(self.limit_s):
                yield attempt
        except Hang:
            end = {"hang": 1}
            raise
        except Lost:
            end = {"lost": 1}
            raise
        except Printed:
            end = {"traceback": 1}
            raise
        except (AssertionError, UserError, pytest.fail.Exception):
            end = {"wrong": 1}
            raise
        except Exception:
            end = {"traceback": 1}
            raise
        finally:
            self.add(fault, attempt.message, tried=1, **end)

    def write(self, path: Path) -> None:
        """Put the table between the marks of a file."""
        head, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
        lines = [f"| fault | {' | '.join(COLUMNS)} | message |", "|---" * (len(COLUMNS) + 2) + "|"]
        for fault, row in self.rows.items():
            figures = " | ".join(str(row[column]) for column in COLUMNS)
            lines.append(f"| {fault} | {figures} | {self.messages[fault]} |")
        table = "\n".join(lines)
        path.write_text(f"{head}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


@contextmanager
def answer_within(seconds: float) -> Iterator[None]:
    """Raise `Hang` in the block when the time is over."""

    def ring(*_: Any) -> NoReturn:
        raise Hang(f"no answer within {seconds:g} s")

    handler = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


@pytest.fixture(scope="session")
def faults() -> Iterator[FaultTable]:
    """What was provoked; written to the file FAULT_TABLE names at the end, if it names one."""
    table = FaultTable()
    yield table
    if path := os.environ.get("FAULT_TABLE"):
        table.write(Path(path))
