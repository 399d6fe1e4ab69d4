"""`kill -9` in one training, over and over: in the end it leaves what an undisturbed one leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.runs.conftest import FaultTable

RANDOM, HALF, SOLVE = "random", "half of a checkpoint written", "lower-level solve"
RENAMED, UPDATE, VALIDATION = "checkpoint renamed", "SIGTERM in an update", "SIGTERM in a validation"
TWENTY = (
    *(
        "start of the run",
        RANDOM,
        HALF,
        SOLVE,
        "checkpoint written, not synced",
        RANDOM,
        "between micro-batches",
    ),
    *("checkpoint synced, not renamed", RANDOM, RENAMED, "validation", RANDOM, SOLVE, HALF),
    *("curves synced, not renamed", RANDOM, RENAMED, SOLVE, RANDOM, "test"),
)


def train_and_kill(work: Path, pairs: Path, steps: int, *moments: str) -> dict[str, Any]:
    script = Path(__file__).with_name("killing.py")
    words = [sys.executable, str(script), str(work), str(pairs), str(steps), *moments]
    # A fork of a process with a pool of threads waits for threads that it does not have.
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=alone, timeout=1800)
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def test_three_kills_leave_what_none_leaves(tmp_path: Path, pairs_folder: Path) -> None:
    figures = train_and_kill(tmp_path, pairs_folder, 12, UPDATE, HALF, SOLVE, RANDOM)
    assert figures["kills"] == {UPDATE: 1, HALF: 1, SOLVE: 1, RANDOM: 1}
    assert (figures["missed"], figures["lost"], figures["wrong"]) == (0, 0, [])


@pytest.mark.reliability
def test_twenty_kills_leave_what_none_leaves(
    tmp_path: Path, pairs_folder: Path, faults: "FaultTable"
) -> None:
    figures = train_and_kill(tmp_path, pairs_folder, 60, *TWENTY)
    lost, wrong = figures["lost"], len(figures["wrong"])
    for moment, count in figures["kills"].items():
        faults.add(
            f"`kill -9`, {moment}", "none; `auto_resume=true` goes on", tried=count, lost=lost, wrong=wrong
        )
    assert sum(figures["kills"].values()) == 20
    assert (figures["missed"], lost, figures["wrong"]) == (0, 0, [])


@pytest.mark.reliability
def test_six_preemptions_leave_what_none_leaves(
    tmp_path: Path, pairs_folder: Path, faults: "FaultTable"
) -> None:
    figures = train_and_kill(tmp_path, pairs_folder, 24, *[UPDATE, VALIDATION] * 3)
    lost, wrong = figures["lost"], len(figures["wrong"])
    for moment, count in figures["kills"].items():
        message = "`stopped after update 7, saved in RUN/checkpoints/last.ckpt; ...`, exit 143"
        faults.add(moment, message, tried=count, lost=lost, wrong=wrong)
    assert figures["kills"] == {UPDATE: 3, VALIDATION: 3}
    assert (figures["missed"], lost, figures["wrong"]) == (0, 0, [])
