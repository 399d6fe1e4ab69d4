"""Markdown, CSV and LaTeX of one table agree, and hostile names do no harm."""

import csv
import math
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from clipfuse.comparison.collect import find_runs
from clipfuse.comparison.compute import build_table
from clipfuse.comparison.formats import difference, duration, to_csv, to_latex, to_markdown
from clipfuse.comparison.statistics import Estimate
from clipfuse.comparison.table import Column, Difference, Table
from clipfuse.comparison.variants import group
from clipfuse.metrics.protocols import STRICT

Factory = Callable[..., Path]


@pytest.fixture
def table(sweep: Factory) -> Table:
    for seed in (0, 1):
        sweep(seed=seed)
        root = sweep("ldfusion", seed=seed, level=1.0)
    sweep("ldfusion", options={"loss.name": "a|b_c%"}, level=0.5)
    trivial = {"trivial:maximum": {"SSIM": {f"test-{i:06d}": 9.0 for i in range(6)}}}
    return build_table(group(find_runs([root])), STRICT, ("SSIM", "VIF", "MSE"), "pixel", trivial)


def test_markdown(table: Table) -> None:
    lines = to_markdown(table).splitlines()
    assert lines[0].count(" | ") == 5
    assert "name=a\\|b_c%" in lines[0]
    assert len({len(line) for line in lines[:12]}) == 1
    ssim = next(line for line in lines if line.startswith("| SSIM"))
    best = table.rows[0].cells["SSIM"]
    assert f"**{best.mean:.3f} ± {best.std:.3f}**" in ssim
    assert "9.000" in ssim
    assert ssim.rstrip(" |").endswith(f"{table.columns[0].detectable:.3f}")
    notes = [line for line in lines if line.startswith("- ")]
    assert notes[0].startswith(f"- protocol {STRICT}")
    assert "- average rank: of single trainings within scenes, 5 in all, by classic-1" in notes[3]
    assert notes[4].startswith("- found with 80 %: the smallest true difference")


def test_csv_holds_every_number(table: Table) -> None:
    rows = list(csv.DictReader(StringIO(to_csv(table, ["Not fair."]))))
    assert len(rows) == len(table.rows) * 3
    written = {(row["method"], row["metric"]): row for row in rows}
    for row in table.rows:
        for metric, cell in row.cells.items():
            found = written[row.name, metric]
            assert float(found["mean"]) == cell.mean
            assert found["notes"] == "Not fair."
    for (name, other), differences in table.differences.items():
        for metric, each in differences.items():
            found = written[name, metric]
            assert (found["against"], float(found["difference"])) == (other, each.estimate.value)
            tests = [
                found[key] for key in ("difference_low", "difference_high", "p", "p_holm", "p_discovery")
            ]
            low, high = each.estimate.interval()
            expected = [low, high, each.estimate.p, each.holm, each.discovery]
            assert tests == ([repr(value) for value in expected] if each.tested else [""] * 5)
            better = {1: " better", -1: " worse", 0: ""}[each.better]
            assert found["verdict"] == (each.word + better if better else "")
    assert written["maximum", "VIF"]["mean"] == ""


def test_each_pair_has_its_lines(sweep: Factory) -> None:
    for seed in (0, 1):
        for loss in ("pixel", "ldfusion", "clip_ratio"):
            root = sweep(loss, seed=seed)
    table = build_table(group(find_runs([root])), STRICT, ("SSIM", "MSE"), "all")
    rows = list(csv.DictReader(StringIO(to_csv(table))))
    told = [(row["method"], row["against"]) for row in rows if row["against"] and row["metric"] == "SSIM"]
    assert sorted(told) == sorted(table.against)


def test_latex_is_a_whole_tabular(table: Table) -> None:
    text = to_latex(table)
    body = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert {line.replace("\\&", "").count("&") for line in body} == {len(table.columns) + 1}
    assert len(body) == 1 + len(table.rows)  # losses are rows
    assert text.index("\\toprule") < text.index("\\midrule") < text.index("\\bottomrule")
    assert "name=a|b\\_c\\%" in text
    assert "\\textbf{" in text
    assert "\\underline{" in text
    assert not set("".join(body)) & set("±↑↓≈")


def test_duration() -> None:
    assert [duration(value) for value in (None, 0.5, 61, 7200)] == ["-", "0.5 s", "1.0 min", "2.0 h"]
    assert duration(30, projected=True) == "≈ 30.0 s"


def test_what_is_known_of_a_difference() -> None:
    column = Column("SSIM", True, True, 3, 6, 0)
    sure = Difference(Estimate(0.25, 1e-4, 0.0, 8.0), True, 0.001, 0.001, 0.2, 0.1)
    assert difference(column, sure) == ("+0.250", "+0.227 to +0.273; p 0.001; clearly better")
    assert difference(column, replace(sure, higher_is_better=False))[1].endswith("clearly worse")
    assert difference(column, replace(sure, holm=0.06))[1].endswith("p 0.060; likely better")
    assert difference(column, replace(sure, holm=0.06, discovery=0.06))[1].endswith("p 0.060")
    assert difference(column, replace(sure, median=-0.1))[1].endswith("mean and median disagree")
    assert difference(column, replace(sure, equal=True))[1] == "the same scores to the last bit"
    single = replace(sure, estimate=Estimate(0.25, 0.0, 0.0, math.nan))
    assert difference(column, single) == ("+0.250", "one training: no test")
