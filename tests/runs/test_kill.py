"""`kill -9` in one training, over and over: in the end it leaves what an undisturbed one leaves."""

import json
import os
import subprocess
import sys
from collections import Counter
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


def add(faults: "FaultTable", figures: dict[str, Any], message: str, before: str = "") -> None:
    """Count the kills; what differs at the end may come of any, so that then all count as wrong."""
    for moment, counts in figures["faults"].items():
        wrong = counts["tried"] if figures["wrong"] else 0
        faults.add(f"{before}{moment}", message, **counts, wrong=wrong)


def assert_all_is_kept(figures: dict[str, Any], kills: dict[str, int]) -> None:
    good = {"lost": 0, "traceback": 0, "hang": 0}
    assert figures["faults"] == {moment: {"tried": count, **good} for moment, count in kills.items()}
    assert (figures["missed"], figures["wrong"]) == (0, [])


def test_three_kills_leave_what_none_leaves(tmp_path: Path, pairs_folder: Path) -> None:
    figures = train_and_kill(tmp_path, pairs_folder, 12, UPDATE, HALF, SOLVE, RANDOM)
    assert_all_is_kept(figures, {UPDATE: 1, HALF: 1, SOLVE: 1, RANDOM: 1})


@pytest.mark.reliability
def test_twenty_kills_leave_what_none_leaves(
    tmp_path: Path, pairs_folder: Path, faults: "FaultTable"
) -> None:
    figures = train_and_kill(tmp_path, pairs_folder, 60, *TWENTY)
    add(faults, figures, "none; `auto_resume=true` goes on", before="`kill -9`, ")
    assert_all_is_kept(figures, Counter(TWENTY))


@pytest.mark.reliability
def test_six_preemptions_leave_what_none_leaves(
    tmp_path: Path, pairs_folder: Path, faults: "FaultTable"
) -> None:
    figures = train_and_kill(tmp_path, pairs_folder, 24, *[UPDATE, VALIDATION] * 3)
    add(faults, figures, "`stopped after update 7, saved in RUN/checkpoints/last.ckpt; ...`, exit 143")
    assert_all_is_kept(figures, {UPDATE: 3, VALIDATION: 3})
