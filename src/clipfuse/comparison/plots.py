"""The pictures of numbers, as SVG that takes its ink from the page it stands in."""

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipfuse.comparison.table import Table
from clipfuse.comparison.variants import Variant

# Okabe and Ito's colours less black and yellow, for eyes of all kinds on light and dark pages; then markers.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
MARKERS = "os^Dv*"
_INK = "#010203"  # stands for the page's own; no colour above is near
_POINTS = 150  # of a curve
_NO_DATE = {"Date": None, "Creator": None}  # the same numbers give the same bytes
_STYLE: Any = {
    **{"svg.fonttype": "none", "svg.hashsalt": "clipfuse", "font.size": 10, "font.family": "sans-serif"},
    **{
        key: _INK for key in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    },
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25},
    **{"grid.color": _INK, "lines.linewidth": 1.5},
}


def style(place: int) -> dict[str, Any]:
    """Return colour and marker of the loss at this place of the table; the first 36 all differ."""
    marker = MARKERS[(place + place // len(COLORS)) % len(MARKERS)]
    return {"color": COLORS[place % len(COLORS)], "marker": marker}


@dataclass(frozen=True)
class Picture:
    """A picture of numbers.

    Attributes:
        name: unique within a page; also the name of its file.
        label: what a screen reader says.
        width: in inches at 96 per inch.
        height: the same.
        draw: draws into a figure.
    """

    name: str
    label: str
    width: float
    height: float
    draw: Callable[[Figure], None]

    def _figure(self) -> Figure:
        figure = Figure(figsize=(self.width, self.height), layout="constrained")
        self.draw(figure)
        return figure

    def inline(self) -> str:
        """Return an SVG element that takes its ink from the page."""
        with rc_context(_STYLE):
            out = StringIO()
            self._figure().savefig(out, format="svg", transparent=True, metadata=_NO_DATE)
        text = out.getvalue()
        text = text[text.index("<svg") :].replace(_INK, "currentColor")
        text = re.sub(r' id="', f' id="{self.name}-', text)
        text = re.sub(r"url\(#", f"url(#{self.name}-", text)
        text = re.sub(r'href="#', f'href="#{self.name}-', text)
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r"(\d+\.\d\d)\d+", r"\1", text)  # a hundredth of a point
        size = f'width="{self.width * 96:.0f}" height="{self.height * 96:.0f}"'
        label = self.label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
        return re.sub(
            r'width="[^"]+" height="[^"]+"|height="[^"]+" width="[^"]+"', size, text, count=1
        ).replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)

    def save(self, path: Path, kind: Literal["svg", "pdf"]) -> None:
        """Write the picture in black on white; the same numbers give the same bytes."""
        style = {key: "black" if value == _INK else value for key, value in _STYLE.items()}
        dates = {"Date": None} if kind == "svg" else {"CreationDate": None}
        with rc_context({**style, "pdf.fonttype": 42}):
            self._figure().savefig(path, format=kind, metadata=dates)


def _ink() -> str:
    return str(rcParams["text.color"])


def pictures_of(table: Table) -> list[Picture]:
    """Return the pictures of a table that a paper may show: ranks, who is better than whom, each metric."""
    overall = [rank_picture(table), better_picture(table)]
    return [each for each in overall if each] + [
        interval_picture(table, index) for index in range(len(table.columns))
    ]


def rank_picture(table: Table) -> Picture | None:
    """Draw average ranks with their 95 % intervals, and where trivial fusions would stand.

    None with one loss.
    """
    losses = table.losses
    if len(losses) < 2:
        return None
    rows = [row for row in table.rows if row.rank is not None]
    rows.sort(key=lambda row: row.rank or 0)
    places = {row.name: place for place, row in enumerate(losses)}
    labels, lines = wrapped(row.name for row in rows)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for height, row in enumerate(rows):
            look = {"color": _ink(), "marker": "|"} if row.trivial else style(places[row.name])
            if row.rank_interval is not None:
                ends = [min(max(end, 0.5), table.runs + 0.5) for end in row.rank_interval]
                axes.plot(ends, [-height, -height], color=look["color"], linewidth=3, alpha=0.5)
            assert row.rank is not None
            axes.plot(row.rank, -height, **look, markersize=8)
        axes.set_yticks([-height for height in range(len(rows))], labels)
        axes.set(
            xlabel=f"average rank of {table.runs} trainings (1 is best)",
            xlim=(0.4, table.runs + 0.6),
            ylim=(0.4 - len(rows), 0.6),
        )

    told = "; ".join(f"{row.name} {row.rank:.2f}" for row in rows)
    height = 0.9 + max(0.34, 0.17 * lines) * len(rows)
    return Picture("ranks", f"Average ranks: {told}", 5.4, height, draw)


def better_picture(table: Table) -> Picture | None:
    """Draw the share in which each row is better than each column; None with one loss."""
    if table.better is None:
        return None
    shares = table.better
    kept = [place for place, row in enumerate(table.rows) if row.rank is not None]
    labels, lines = wrapped(table.rows[place].name for place in kept)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        shown = shares[np.ix_(kept, kept)]
        axes.imshow(shown, cmap="PuOr_r", vmin=0, vmax=1, alpha=0.85)
        for row, column in np.ndindex(*shown.shape):
            if row != column:
                value = shown[row, column]
                ink = "#ffffff" if abs(value - 0.5) > 0.35 else "#000000"
                axes.text(column, row, f"{value:.0%}", ha="center", va="center", fontsize=8, color=ink)
        axes.set_xticks(range(len(kept)), labels, rotation=90)
        axes.set_yticks(range(len(kept)), labels)
        axes.grid(visible=False)

    side = 1.7 + max(0.42, 0.17 * lines) * len(kept)
    named = [table.rows[place].name for place in kept]
    told = "; ".join(
        f"{one} against {other} {shares[a, b]:.0%}"
        for a, one in zip(kept, named, strict=True)
        for b, other in zip(kept, named, strict=True)
        if a < b
    )
    return Picture(
        "better", f"Share in which the row is better than the column: {told}", side + 0.4, side, draw
    )


def interval_picture(table: Table, index: int) -> Picture:
    """Draw one metric: mean and interval of each row."""
    column = table.columns[index]
    rows = [
        (place, row, cell) for place, row in enumerate(table.rows) if (cell := row.cells.get(column.name))
    ]
    labels, lines = wrapped(row.name for _, row, _ in rows)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, row, cell in rows:
            look = {"color": _ink(), "marker": "|"} if row.trivial else style(place)
            if isfinite(cell.low):
                axes.plot(
                    [cell.low, cell.high], [-place, -place], color=look["color"], linewidth=3, alpha=0.4
                )
            axes.plot(cell.mean, -place, **look, markersize=7)
        axes.set_yticks([-place for place, _, _ in rows], labels)
        axes.set_title(_plain(column.label), fontsize=11)

    told = "; ".join(f"{row.name} {cell.mean:.4g}" for _, row, cell in rows)
    height = 0.9 + max(0.26, 0.17 * lines) * len(table.rows)
    return Picture(f"metric{index}", f"{column.name}: {told}", 4.4, height, draw)


def curve_pictures(
    prefix: str, variants: Sequence[Variant], places: Mapping[str, int], keys: str
) -> list[Picture]:
    """Draw a panel for each curve: the mean over seeds, and a band from the least to the largest seed.

    Args:
        prefix: of the ids in the pictures.
        variants: whose runs' curves are drawn together.
        places: of the losses in the table, which give the colours.
        keys: start of the curves' names, as "val/metric/".
    """
    names = sorted({key for v in variants for run in v.runs for key in run.curves if key.startswith(keys)})
    return [
        _curve(f"{prefix}{index}", key, key.removeprefix(keys), variants, places)
        for index, key in enumerate(names)
    ]


def _curve(
    name: str, key: str, title: str, variants: Sequence[Variant], places: Mapping[str, int]
) -> Picture:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for variant in variants:
            curves = [run.curves[key] for run in variant.runs if run.curves.get(key)]
            if curves:
                _band(axes, curves, style(places.get(variant.name, len(places))))
        axes.set_title(_plain(title), fontsize=11)
        axes.set_xlabel("training samples seen", fontsize=9)

    told = f"{title} over training samples: {', '.join(v.name for v in variants)}"
    return Picture(name, told, 4.4, 2.7, draw)


def _band(axes: Axes, curves: Sequence[Sequence[tuple[float, float]]], look: dict[str, Any]) -> None:
    x = np.unique(np.concatenate([[point[0] for point in curve] for curve in curves]))
    x = x[x <= min(curve[-1][0] for curve in curves)] if len(curves) > 1 else x
    x = x[np.unique(np.linspace(0, len(x) - 1, min(_POINTS, len(x))).round().astype(int))] if len(x) else x
    y = np.array([np.interp(x, *np.array(curve).T) for curve in curves])
    few = {} if len(x) > 12 else {"marker": look["marker"], "markersize": 4}
    axes.plot(x, y.mean(axis=0), color=look["color"], **few)
    if len(curves) > 1:
        axes.fill_between(x, y.min(axis=0), y.max(axis=0), color=look["color"], alpha=0.2, linewidth=0)


def wrapped(names: Iterable[str], width: int = 24) -> tuple[list[str], int]:
    """Return names in lines that leave a picture its room, and the most lines of one."""
    cut = [textwrap.wrap(_plain(name), width) for name in names]
    return ["\n".join(lines) for lines in cut], max((len(lines) for lines in cut), default=1)


def _plain(text: str) -> str:
    """Return text that matplotlib takes as it stands: no formulas, no line breaks."""
    return text.replace("$", r"\$").replace("\n", " ")
