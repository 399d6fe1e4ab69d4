"""A signal to a rank that waits for another one. Each case is a fork of this process, which it ends."""

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from torch import distributed

from clipfuse.training.hangs import ended_in_collectives

SECOND = timedelta(seconds=1)


def outcome(act: Callable[[], object], patience: float, signals: int, path: Path) -> tuple[int, str]:
    """Fork, act under the watch, get signals 0.3 s apart; return the exit code and what was reported."""
    if (child := os.fork()) == 0:
        code = 1
        try:
            signal.signal(signal.SIGTERM, lambda number, frame: None)
            with ended_in_collectives(partial(_write, path), patience):
                act()
            code = 0
        finally:
            os._exit(code)
    for _ in range(signals):
        time.sleep(0.3)
        os.kill(child, signal.SIGTERM)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, path.read_text() if path.exists() else ""


def _write(path: Path, line: str) -> None:
    path.write_text(line)


def wait_for_rank_one(store: Path) -> None:
    """Join a group of two whose other rank never comes: blocks inside torch."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=2)


@pytest.mark.parametrize(("patience", "signals"), [(0.5, 1), (600.0, 2)])
def test_a_rank_that_waits_for_a_lost_one_ends_by_a_signal(
    patience: float, signals: int, tmp_path: Path
) -> None:
    code, line = outcome(
        lambda: wait_for_rank_one(tmp_path / "store"), patience, signals, tmp_path / "report"
    )
    assert code == 128 + signal.SIGTERM
    assert line.startswith("SIGTERM, after which this rank waited")
    assert "wait_for_rank_one (test_hangs.py, line" in line


def test_a_rank_that_computes_is_left_to_its_handler(tmp_path: Path) -> None:
    def compute() -> None:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            pass

    assert outcome(compute, 0.3, 2, tmp_path / "report") == (0, "")


def test_a_signal_to_a_loader_process_is_none_to_its_rank(tmp_path: Path) -> None:
    def load_and_wait() -> None:
        if (loader := os.fork()) == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        os.waitpid(loader, 0)
        with pytest.raises(RuntimeError):  # after a second of waiting for rank 1
            distributed.init_process_group(
                "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=2, timeout=SECOND
            )

    assert outcome(load_and_wait, 0.3, 0, tmp_path / "report") == (0, "")
