"""`kill -9` in one training, over and over: what is left in the end is what an undisturbed training leaves."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RANDOM, HALF, SOLVE = "random", "half of a checkpoint written", "lower-level solve"
RENAMED = "checkpoint renamed"
TWENTY = (
    *("start of the run", RANDOM, HALF, SOLVE, "checkpoint written, not synced", RANDOM, "between micro-batches"),
    *("checkpoint synced, not renamed", RANDOM, RENAMED, "validation", RANDOM, SOLVE, HALF),
    *("curves synced, not renamed", RANDOM, RENAMED, SOLVE, RANDOM, "test"),
)


def train_and_kill(work: Path, pairs: Path, steps: int, *moments: str) -> dict[str, Any]:
    script = Path(__file__).with_name("killing.py")
    words = [sys.executable, str(script), str(work), str(pairs), str(steps), *moments]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def test_three_kills_leave_what_none_leaves(tmp_path: Path, pairs_folder: Path) -> None:
    figures = train_and_kill(tmp_path, pairs_folder, 8, HALF, SOLVE, RANDOM)
    assert figures["kills"] == {HALF: 1, SOLVE: 1, RANDOM: 1}
    assert (figures["missed"], figures["lost"], figures["wrong"]) == (0, 0, [])


@pytest.mark.reliability
def test_twenty_kills_leave_what_none_leaves(
    tmp_path: Path, pairs_folder: Path, fault_table: dict[str, tuple[int, int, int, str]]
) -> None:
    figures = train_and_kill(tmp_path, pairs_folder, 60, *TWENTY)
    for moment, count in figures["kills"].items():
        fault_table[f"`kill -9`: {moment}"] = count, figures["lost"], len(figures["wrong"]), "none; resumes"
    assert sum(figures["kills"].values()) == 20
    assert (figures["missed"], figures["lost"], figures["wrong"]) == (0, 0, [])
