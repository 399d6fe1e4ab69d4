"""The table as Markdown, CSV and LaTeX."""

import csv
from collections.abc import Callable, Sequence
from io import StringIO

from clipfuse.compare.table import Cell, Column, Row, Table

MISSING = "-"


def score(column: Column, cell: Cell) -> str:
    """Return mean and standard deviation over seeds in the decimals of the column."""
    mean = f"{cell.mean:.{column.decimals}f}"
    return mean if cell.std is None else f"{mean} ± {cell.std:.{column.decimals}f}"


def span(column: Column, cell: Cell) -> str:
    """Return the interval."""
    return f"{cell.low:.{column.decimals}f} to {cell.high:.{column.decimals}f}"


def duration(seconds: float | None, projected: bool = False) -> str:
    """Return hours, minutes or seconds; "≈" where they are projected."""
    if seconds is None:
        return MISSING
    size, unit = next((s, u) for s, u in ((3600, "h"), (60, "min"), (1, "s")) if seconds >= s or s == 1)
    return f"{'≈ ' if projected else ''}{seconds / size:.1f} {unit}"


def extras(row: Row) -> dict[str, str]:
    """Return what a row says beside its scores, by caption."""
    rate, memory = row.samples_per_second, row.memory_mb
    return {
        "average rank ↓": MISSING if row.rank is None else f"{row.rank:.2f}",
        "first in resamples ↑": MISSING if row.first is None else f"{row.first:.0%}",
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
        mark: makes the cell of the best (1) and the second (2) stand out.
        escape: of the format.
    """
    lines = [["metric", *(escape(row.name) for row in table.rows)]]
    for column in table.columns:
        cells = [row.cells.get(column.name) for row in table.rows]
        texts = [mark(cell.place, escape(score(column, cell))) if cell else MISSING for cell in cells]
        lines.append([escape(column.label), *texts])
    every = [extras(row) for row in table.rows]
    lines += [[escape(caption), *(escape(each[caption]) for each in every)] for caption in every[0]]
    return lines


def captions(table: Table) -> list[str]:
    """Return what a reader of the table must know."""
    unchecked = [column.name for column in table.columns if not column.checked]
    lines = [
        f"protocol {table.protocol}: {table.protocol.summary}",
        f"{len(table.images)} test images of {table.scenes} scenes; mean ± standard deviation over seeds",
        "best in bold, second underlined; trivial fusions: "
        + (", ".join(row.name for row in table.rows if row.trivial) or "none"),
    ]
    return lines + [f"* not checked against published code: {', '.join(unchecked)}"] * bool(unchecked)


def to_markdown(table: Table) -> str:
    """Return a table that can also be read as plain text."""
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
    """Return a tabular of the booktabs package, ready to be put into a table environment."""
    marks = {1: "\\textbf{%s}", 2: "\\underline{%s}", None: "%s"}
    head, *body = grid(table, lambda place, text: marks[place] % text, _latex)
    middle = len(table.columns)
    lines = [f"% {line}" for line in captions(table)]
    lines += [f"\\begin{{tabular}}{{l{'c' * (len(head) - 1)}}}", "\\toprule", _latex_line(head), "\\midrule"]
    lines += [*map(_latex_line, body[:middle]), "\\midrule", *map(_latex_line, body[middle:])]
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


def to_csv(table: Table) -> str:
    """Return a line per row and metric with every number, in full precision."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            *(
                "method",
                "trivial",
                "seeds",
                "metric",
                "higher_is_better",
                "mean",
                "std",
                "low",
                "high",
                "rank",
            ),
            *("baseline", "difference", "difference_low", "difference_high", "p_holm", "rank_biserial"),
            *("images", "scenes", "protocol"),
        ]
    )
    for row in table.rows:
        for column in table.columns:
            cell = row.cells.get(column.name)
            numbers = ["", "", "", "", ""]
            paired = [""] * 6
            if cell:
                numbers = [_full(each) for each in (cell.mean, cell.std, cell.low, cell.high, cell.rank)]
                if (a := cell.against) is not None:
                    paired = [table.baseline, *map(_full, (a.mean, a.low, a.high, a.p, a.effect))]
            writer.writerow(
                [
                    *(row.name, row.trivial, len(row.seeds), column.name, column.higher_is_better),
                    *(*numbers, *paired, column.images, table.scenes, str(table.protocol)),
                ]
            )
    return out.getvalue()


def _full(value: float | None) -> str:
    return "" if value is None else repr(value)
