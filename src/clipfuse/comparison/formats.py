"""The table as Markdown, CSV and LaTeX."""

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

from clipfuse.comparison.statistics import Cell
from clipfuse.comparison.table import Column, Difference, Row, Table
from clipfuse.files import csv_text

MISSING = "-"
RANK = "average rank ↓"
FOUND = "found with 80 %"


def score(column: Column, cell: Cell) -> str:
    """Return mean and standard deviation over seeds in the decimals of the column."""
    mean = f"{cell.mean:.{column.decimals}f}"
    return mean if cell.std is None else f"{mean} ± {cell.std:.{column.decimals}f}"


def span(column: Column, cell: Cell) -> str:
    """Return the interval."""
    if not isfinite(cell.low):
        return "no interval"
    return f"{cell.low:.{column.decimals}f} to {cell.high:.{column.decimals}f}"


def ends(low: float, high: float, sign: str = "") -> str:
    """Return an interval of a downstream score, which is in 0..100."""
    return f"{low:{sign}.2f} to {high:{sign}.2f}" if isfinite(low) else "no interval"


def found(column: Column) -> str:
    """Return the smallest true difference that is found clearly with a probability of 80 %."""
    return MISSING if column.detectable is None else f"{column.detectable:.{column.decimals}f}"


def difference(column: Column, each: Difference) -> tuple[str, str]:
    """Return a difference of means, and its interval, p-value and finding."""
    shown = f"{each.estimate.value:+.{column.decimals}f}"
    if each.equal:
        return shown, "the same scores to the last bit"
    if not each.tested:
        return shown, "one training: no test"
    low, high = each.estimate.interval()
    known = [f"{low:+.{column.decimals}f} to {high:+.{column.decimals}f}", f"p {p_value(each.holm)}"]
    if each.divided:
        known.append("mean and median disagree")
    elif each.better:
        known.append(each.finding)
    return shown, "; ".join(known)


def p_value(value: float) -> str:
    """Return a p-value in three decimals."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def duration(seconds: float | None, projected: bool = False) -> str:
    """Return hours, minutes or seconds; "≈" where they are projected."""
    if seconds is None:
        return MISSING
    size, unit = next((s, u) for s, u in ((3600, "h"), (60, "min"), (1, "s")) if seconds >= s or s == 1)
    return f"{'≈ ' if projected else ''}{seconds / size:.1f} {unit}"


def extras(row: Row) -> dict[str, str]:
    """Return rank, cost and other entries of a row beside its scores, by caption."""
    rate, memory = row.samples_per_second, row.memory_mb
    return {
        RANK: MISSING if row.rank is None else f"{row.rank:.2f}",
        "first in resamples ↑": MISSING if row.first is None else f"{row.first:.0%}",
        "first by half the metrics ↑": MISSING if row.stable is None else f"{row.stable:.0%}",
        "seeds": str(len(row.seeds)) if row.seeds else MISSING,
        "training time": duration(row.seconds, row.projected),
        "samples/s": MISSING if rate is None else f"{rate:.3g}",
        "peak memory": MISSING if memory is None else f"{memory / 1000:.2f} GB",
    }


def grid(
    table: Table,
    mark: Callable[[int | None, str], str] = lambda place, text: text,
    escape: Callable[[str], str] = str,
) -> list[list[str]]:
    """Return lines of cells: a metric per line, a loss per column, so that six losses fit a page.

    Args:
        table: the numbers.
        mark: formats the cell of the best (1) and the second (2) row.
        escape: escapes the characters that the format reserves.
    """
    power = any(column.detectable is not None for column in table.columns)
    lines = [["metric", *(escape(row.name) for row in table.rows), *[FOUND] * power]]
    for column in table.columns:
        cells = [row.cells.get(column.name) for row in table.rows]
        texts = [mark(cell.place, escape(score(column, cell))) if cell else MISSING for cell in cells]
        lines.append([escape(column.label), *texts, *[found(column)] * power])
    every = [extras(row) for row in table.rows]
    for caption in every[0]:
        lines.append([escape(caption), *(escape(each[caption]) for each in every), *[MISSING] * power])
    return lines


def captions(table: Table) -> list[str]:
    """Return the notes below the table: protocol, images, ranks, power."""
    unchecked = [column.name for column in table.columns if not column.checked]
    lines = [
        f"protocol {table.protocol}: {table.protocol.summary}",
        f"{len(table.images)} test images of {table.scenes} scenes; mean ± standard deviation over seeds",
        "best in bold, second underlined; trivial fusions: "
        + (", ".join(row.name for row in table.rows if row.trivial and row.kind == "trivial") or "none"),
    ]
    for each in table.seen:
        if names := [name for name in each.columns.values() if name in {c.name for c in table.columns}]:
            seeds = ", ".join(map(str, each.seeds))
            lines.append(
                f"{', '.join(names)}: {each.task} by {each.protocol}, mean over task seeds {seeds}, on "
                f"{len(each.images)} test images of {len(each.scenes)} scenes, jackknife over scenes"
            )
    if any(row.kind == "both bands" for row in table.rows):
        lines.append("both: both bands fed to the task network as channels, without fusion")
    if len(table.losses) > 1:
        families = ", ".join(
            family if members == (family,) else f"{family} ({', '.join(members)})"
            for family, members in table.families.items()
        )
        lines.append(
            f"average rank: of single trainings within scenes, {table.runs} in all, by {table.verdict_set}, "
            f"each family one vote: {families}; a trivial fusion's is where it would stand among them"
        )
    if table.tests:
        lines.append(
            f"{FOUND}: the smallest true difference that so many seeds and scenes show clearly in 80 % of "
            "cases; where losses differ by less, nothing found does not mean nothing there"
        )
    return lines + [f"* not checked against published code: {', '.join(unchecked)}"] * bool(unchecked)


def to_markdown(table: Table) -> str:
    """Return the table in Markdown, aligned so that it can be read as plain text."""
    marks = {1: "**", 2: "_", None: ""}
    lines = grid(
        table,
        lambda place, text: f"{marks[place]}{text}{marks[place]}",
        lambda text: text.replace("|", "\\|"),
    )
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    rows = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in lines
    ]
    rows.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    notes = [line.replace("underlined", "in italics").replace("* ", "\\* ", 1) for line in captions(table)]
    return "\n".join([*rows, "", *(f"- {line}" for line in notes), ""])


def to_latex(table: Table) -> str:
    """Return a tabular of the booktabs package, losses as rows, ready to be put into a table environment."""
    marks = {1: "\\textbf{%s}", 2: "\\underline{%s}", None: "%s"}
    losses = [
        _latex_line(
            [
                _latex(row.name),
                *(
                    marks[cell.place] % _latex(score(column, cell))
                    if (cell := row.cells.get(column.name))
                    else MISSING
                    for column in table.columns
                ),
                _latex(extras(row)[RANK]),
            ]
        )
        for row in table.rows
    ]
    middle = len(table.losses)
    head = ["", *(_latex(column.label) for column in table.columns), _latex(RANK)]
    lines = [f"% {line}" for line in captions(table)]
    lines += [f"\\begin{{tabular}}{{l{'c' * (len(head) - 1)}}}", "\\toprule", _latex_line(head), "\\midrule"]
    lines += losses[:middle]
    lines += ["\\midrule", *losses[middle:]] if losses[middle:] else []
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _latex_line(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"},
    **{"±": "$\\pm$", "↑": "$\\uparrow$", "↓": "$\\downarrow$", "≈": "$\\approx$", "…": "\\dots{}"},
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


CSV_HEAD = (
    *("method", "trivial", "seeds", "metric", "higher_is_better", "mean", "std", "low", "high", "rank"),
    *("against", "difference", "difference_low", "difference_high", "p", "p_holm", "p_discovery"),
    *("median_difference", "found_with_80_percent", "verdict", "images", "scenes", "protocol", "notes"),
)


def to_records(table: Table, notes: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return a record per row, loss it is tested against, and metric; the keys are `CSV_HEAD`.

    A missing number is None. The notes are repeated in each record, so that no number travels without them.
    """
    records = []
    for row in table.rows:
        others: list[str | None] = [
            other for name, other in table.against if name == row.name and not row.trivial
        ]
        for other in others or [None]:
            for column in table.columns:
                cell = row.cells.get(column.name)
                numbers = (cell.mean, cell.std, cell.low, cell.high, cell.rank) if cell else (None,) * 5
                each = None if other is None else table.differences[row.name, other].get(column.name)
                values = (
                    *(row.name, row.trivial, len(row.seeds), column.name, column.higher_is_better),
                    *(*numbers, *_paired(other, each), column.images),
                    *(column.scenes or table.scenes, column.protocol or str(table.protocol)),
                    " ".join(notes),
                )
                records.append(dict(zip(CSV_HEAD, values, strict=True)))
    return records


def _paired(other: str | None, each: Difference | None) -> Sequence[Any]:
    if each is None:
        return (None,) * 10
    tests: Sequence[float | None] = (None,) * 5
    if each.tested:
        tests = (*each.estimate.interval(), each.estimate.p, each.holm, each.discovery)
    detectable = each.detectable if isfinite(each.detectable) else None
    return other, each.estimate.value, *tests, each.median, detectable, each.finding or None


def to_csv(table: Table, notes: Sequence[str] = ()) -> str:
    """Return `to_records` as CSV, with every number in full precision."""
    return csv_text(CSV_HEAD, to_records(table, notes))
