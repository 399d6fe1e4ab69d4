"""Markdown, CSV and LaTeX of one table agree, and hostile names do no harm."""

import csv
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest

from clipfuse.compare.collect import find_runs
from clipfuse.compare.compute import build_table
from clipfuse.compare.formats import duration, to_csv, to_latex, to_markdown
from clipfuse.compare.table import Table
from clipfuse.compare.variants import group
from clipfuse.compare.verdict import verdict
from clipfuse.metrics.protocols import STRICT

Factory = Callable[..., Path]


@pytest.fixture
def table(sweep: Factory) -> Table:
    for seed in (0, 1):
        sweep(seed=seed)
        root = sweep("ldfusion", seed=seed, level=1.0)
    sweep("ldfusion", options={"loss.name": "a|b_c%"}, level=0.5)
    trivial = {"baseline:maximum": {"SSIM": {f"test-{i:06d}": 9.0 for i in range(6)}}}
    return build_table(group(find_runs([root])), STRICT, ("SSIM", "VIF", "MSE"), "pixel", trivial)


def test_markdown(table: Table) -> None:
    lines = to_markdown(table).splitlines()
    assert lines[0].count(" | ") == 4
    assert "name=a\\|b_c%" in lines[0]
    assert len({len(line) for line in lines[:11]}) == 1
    ssim = next(line for line in lines if line.startswith("| SSIM"))
    best = table.rows[0].cells["SSIM"]
    assert f"**{best.mean:.3f} ± {best.std:.3f}**" in ssim
    assert "9.000" in ssim
    assert lines[12].startswith("- protocol strict-2")


def test_csv_holds_every_number(table: Table) -> None:
    rows = list(csv.DictReader(StringIO(to_csv(table))))
    assert len(rows) == len(table.rows) * 3
    written = {(row["method"], row["metric"]): row for row in rows}
    for row in table.rows:
        for metric, cell in row.cells.items():
            found = written[row.name, metric]
            assert float(found["mean"]) == cell.mean
            if cell.against:
                assert float(found["p_holm"]) == cell.against.p
                assert found["baseline"] == "pixel"
    assert written["maximum", "VIF"]["mean"] == ""


def test_latex_is_a_whole_tabular(table: Table) -> None:
    text = to_latex(table)
    body = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert {line.replace("\\&", "").count("&") for line in body} == {len(table.rows)}
    assert text.index("\\toprule") < text.index("\\midrule") < text.index("\\bottomrule")
    assert "name=a|b\\_c\\%" in text
    assert "\\textbf{" in text
    assert "\\underline{" in text
    assert not set("".join(body)) & set("±↑↓≈")


def test_duration() -> None:
    assert [duration(value) for value in (None, 0.5, 61, 7200)] == ["-", "0.5 s", "1.0 min", "2.0 h"]
    assert duration(30, projected=True) == "≈ 30.0 s"


def test_verdict_names_the_winner_and_how_sure(table: Table) -> None:
    told = verdict(table)
    assert told[0].startswith("'ldfusion' is ahead, but 1 seed is too few to be sure: ")
    assert "average rank 1.00 of 3 over 3 metrics and 6 scenes" in told[0]
    assert "first in 100% of the resamples" in told[1]
    assert any("1 to 2 seeds per loss: how much seeds vary is barely known" in line for line in told)
    assert "Trivial fusions that beat every loss: maximum on 1 of 3 metrics." in told
    assert (
        "'ldfusion' is clearly better than 'pixel' on 0 of 3 metrics and worse on 0." in told
    )  # p of 6 images


def build(root: Path) -> Table:
    return build_table(group(find_runs([root])), STRICT, ("SSIM", "VIF", "MSE"), "pixel")


def test_a_win_needs_five_seeds(sweep: Factory) -> None:
    for seed in range(5):
        sweep(seed=seed)
        root = sweep("ldfusion", seed=seed, level=1.0)
    table = build(root)
    told = verdict(table)
    assert told[0].startswith("'ldfusion' wins: average rank 1.00 of 2")
    assert not any("barely known" in line for line in told)


def test_nothing_is_decided_between_equals(sweep: Factory) -> None:
    scores = {"SSIM": [1.0] * 6, "VIF": [1.0] * 6, "MSE": [1.0] * 6}
    sweep(scores=scores)
    told = verdict(build(sweep("ldfusion", scores=scores)))
    assert told[0].startswith("Undecided")
    assert "first in 50%" in told[1]


def test_one_loss_has_no_rival(sweep: Factory) -> None:
    assert verdict(build(sweep()))[0] == "There is one loss, 'pixel': nothing to compare it with."


def test_dependent_frames_are_pointed_out(sweep: Factory) -> None:
    sweep(scenes=list("aaabbb"))
    told = verdict(build(sweep("ldfusion", scenes=list("aaabbb"))))
    assert any("frames of one scene as independent" in line for line in told)
