"""The results that are stored, ours and everybody's: each is read, and all make one board."""

from pathlib import Path

import pytest
from experiments.leaderboard import make

from clipfuse.board.reading import read_entries
from clipfuse.board.standings import build_standings
from clipfuse.metrics.verdict import BALANCED

FILES = sorted(make.RESULTS.glob("*"))
LARGEST = 2**20  # bytes of a file


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_stored_result_is_sound(path: Path) -> None:
    assert path.suffix == ".json"
    assert path.stat().st_size < LARGEST
    for entry in read_entries(path):
        assert entry.scenes_from != "names" or entry.set == "rendered"
        assert BALANCED.missing(entry.metrics) == []


def test_all_stored_results_make_one_board_without_a_clash() -> None:
    standings = build_standings([entry for path in FILES for entry in read_entries(path)])
    assert {"rendered"} <= {each.set for each in standings}
    for each in standings:
        for method in (*make.METHODS, "trivial:maximum"):
            assert each.place(method) is not None
    text = make.PAGE.read_text()
    assert all(method in text for method in make.METHODS)
    assert "clipfuse board results --images images --out board.html" in text
