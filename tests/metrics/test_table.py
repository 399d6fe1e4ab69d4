"""The rank that a table of scores ends with is by a verdict set, and says by which."""

from clipfuse.metrics.protocols import STRICT
from clipfuse.metrics.table import score_table
from clipfuse.metrics.verdict import BALANCED

# By three published metrics a copy is first, by the five families ours.
CLASSIC_SCORES = {
    "ours": {"MI": [1.0], "VIF": [1.0], "Qabf": [1.0]},
    "copy": {"MI": [2.0], "VIF": [2.0], "Qabf": [2.0]},
}


def last_rank(scores: dict[str, dict[str, list[float]]]) -> list[str]:
    (line,) = [line for line in score_table(STRICT, scores).splitlines() if line.startswith("rank, ")]
    return line.split()


def test_one_vote_a_family_where_the_balanced_metrics_are_there() -> None:
    kept = {name: [0.5] for members in BALANCED.members.values() for name in members}
    scores = {
        "ours": {**CLASSIC_SCORES["ours"], **kept},
        "copy": {**CLASSIC_SCORES["copy"], **{name: [0.1] for name in kept}},
    }
    assert last_rank(scores) == ["rank,", "balanced-1", "↓", "1.00", "2.00"]
    del scores["ours"]["kept-targets"], scores["copy"]["kept-targets"]  # a data set may have no masks
    assert last_rank(scores) == ["rank,", "balanced-1", "↓", "1.00", "2.00"]


def test_the_classic_set_where_they_are_not() -> None:
    assert last_rank(CLASSIC_SCORES) == ["rank,", "classic-1", "↓", "2.00", "1.00"]
    assert "degenerate fusions win by them" in score_table(STRICT, CLASSIC_SCORES)


def test_one_method_and_own_metrics_alone_have_no_rank() -> None:
    assert "rank" not in score_table(STRICT, {"ours": CLASSIC_SCORES["ours"]})
    assert "rank" not in score_table(STRICT, {name: {"noise": [0.5]} for name in ("ours", "copy")})
