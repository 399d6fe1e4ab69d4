"""Drawings of the numbers, as SVG that takes its text colour from the page around it, or as files."""

import re
import textwrap
import warnings
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
from matplotlib.font_manager import fontManager

from clipfuse.comparison.machine import Seen
from clipfuse.comparison.statistics import Cell
from clipfuse.comparison.table import Table
from clipfuse.comparison.variants import Variant

# Okabe and Ito's colours less black and yellow, for eyes of all kinds on light and dark pages; then markers.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
MARKERS = "os^Dv*"
_INK = "#010203"  # stands for the page's text colour; no colour above is near
_POINTS = 150  # of a curve
_NO_DATE = {"Date": None, "Creator": None}  # the same numbers give the same bytes
# Chinese, Japanese and Korean characters, and fonts that have them: that of matplotlib has none.
_WIDE = re.compile("[\u2e80-\ud7ff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
_WIDE_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Source Han Sans SC", "Noto Sans SC"),
    *("WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Microsoft YaHei", "SimHei"),
    *("PingFang SC", "Hiragino Sans GB", "Hiragino Sans", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS"),
)
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
_STYLE: Any = {
    **{"svg.fonttype": "none", "svg.hashsalt": "clipfuse", "font.size": 10, "font.family": "sans-serif"},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25},
    **{"lines.linewidth": 1.5, **dict.fromkeys(_INKED, _INK)},
}


def style(place: int) -> dict[str, Any]:
    """Return colour and marker of the loss at this place of the table; the first 36 all differ."""
    marker = MARKERS[(place + place // len(COLORS)) % len(MARKERS)]
    return {"color": COLORS[place % len(COLORS)], "marker": marker}


@dataclass(frozen=True)
class Drawing:
    """A drawing of numbers.

    Attributes:
        name: unique within a page; also the name of its file.
        label: the text for screen readers.
        width: in inches; 96 pixels per inch on a page.
        height: in inches.
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
        """Return an SVG element that takes its text colour from the page."""
        out = StringIO()
        self._save(out, _STYLE, format="svg", transparent=True, metadata=_NO_DATE)
        text = out.getvalue()
        text = text[text.index("<svg") :].replace(_INK, "currentColor")
        text = re.sub(r' id="', f' id="{self.name}-', text)
        text = re.sub(r"url\(#", f"url(#{self.name}-", text)
        text = re.sub(r'href="#', f'href="#{self.name}-', text)
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        # A hundredth of a point, in tags alone: numbers outside of them are the labels of the axes.
        text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d+\.\d\d)\d+", r"\1", tag[0]), text)
        size = f'width="{self.width * 96:.0f}" height="{self.height * 96:.0f}"'
        label = self.label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
        return re.sub(
            r'width="[^"]+" height="[^"]+"|height="[^"]+" width="[^"]+"', size, text, count=1
        ).replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)

    def save(self, path: Path, kind: Literal["svg", "pdf"]) -> None:
        """Write the drawing in black on white; the same numbers give the same bytes."""
        style = {key: "black" if value == _INK else value for key, value in _STYLE.items()}
        dates = {"Date": None} if kind == "svg" else {"CreationDate": None}
        self._save(path, {**style, "pdf.fonttype": 42}, format=kind, metadata=dates)

    def _save(self, out: Any, style: Any, **options: Any) -> None:
        """Draw and save; a character that no font here has becomes a box, without a warning for each.

        In an SVG it is text, for which the reader's machine may have a font.
        """
        if _WIDE.search(self.label):
            known = {font.name for font in fontManager.ttflist}
            wide = [name for name in _WIDE_FONTS if name in known]
            style = {**style, "font.family": [style["font.family"], *wide]}
        with rc_context(style), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph \d+ ")
            self._figure().savefig(out, **options)


def draw_all(table: Table) -> list[Drawing]:
    """Return the drawings of a table that a paper may show: ranks, who is better than whom, each metric."""
    overall = [draw_ranks(table), draw_better(table)]
    return [each for each in overall if each] + [draw_metric(table, i) for i in range(len(table.columns))]


Mark = tuple[str, float, tuple[float, float] | None]  # name of the row, its value and its interval


def _draw_marks(
    axes: Axes, marks: Sequence[Mark], losses: Sequence[str], labels: Sequence[str], size: float
) -> None:
    """Draw one line per mark, from top to bottom; of what is no loss in the colour of the text."""
    places = {name: place for place, name in enumerate(losses)}
    for height, (name, value, ends) in enumerate(marks):
        ink = str(rcParams["text.color"])
        look = style(places[name]) if name in places else {"color": ink, "marker": "|"}
        if ends is not None:
            axes.plot(ends, [-height, -height], color=look["color"], linewidth=3, alpha=0.45)
        axes.plot(value, -height, **look, markersize=size)
    axes.set_yticks([-height for height in range(len(marks))], labels)


def draw_ranks(table: Table) -> Drawing | None:
    """Draw average ranks with their 95 % intervals, and where trivial fusions would stand.

    None with one loss.
    """
    if len(table.losses) < 2:
        return None
    found = [(row.rank, row) for row in table.rows if row.rank is not None]
    found.sort(key=lambda pair: pair[0])
    marks: list[Mark] = []
    for rank, row in found:
        low, high = row.rank_interval or (rank, rank)
        ends = max(low, 0.5), min(high, table.runs + 0.5)
        marks.append((row.name, rank, ends if row.rank_interval else None))
    labels, lines = wrap_names(name for name, *_ in marks)
    losses = [row.name for row in table.losses]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _draw_marks(axes, marks, losses, labels, 8)
        axes.set(
            xlabel=f"average rank of {table.runs} trainings (1 is best)",
            xlim=(0.4, table.runs + 0.6),
            ylim=(0.4 - len(marks), 0.6),
        )

    text = "; ".join(f"{name} {rank:.2f}" for name, rank, _ in marks)
    height = 0.9 + max(0.34, 0.17 * lines) * len(marks)
    return Drawing("ranks", f"Average ranks: {text}", 5.4, height, draw)


def draw_better(table: Table) -> Drawing | None:
    """Draw the share in which each row is better than each column; None with one loss."""
    if table.better is None:
        return None
    kept = [place for place, row in enumerate(table.rows) if row.rank is not None]
    names = [table.rows[place].name for place in kept]
    shares = table.better[np.ix_(kept, kept)]
    labels, lines = wrap_names(names)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.imshow(shares, cmap="PuOr_r", vmin=0, vmax=1, alpha=0.85)
        for (row, column), value in np.ndenumerate(shares):
            if row != column:
                ink = "#ffffff" if abs(value - 0.5) > 0.35 else "#000000"
                axes.text(column, row, f"{value:.0%}", ha="center", va="center", fontsize=8, color=ink)
        axes.set_xticks(range(len(names)), labels, rotation=90)
        axes.set_yticks(range(len(names)), labels)
        axes.grid(visible=False)

    text = "; ".join(
        f"{names[a]} against {names[b]} {value:.0%}" for (a, b), value in np.ndenumerate(shares) if a < b
    )
    side = 1.7 + max(0.42, 0.17 * lines) * len(names)
    label = f"Share in which the row is better than the column: {text}"
    return Drawing("better", label, side + 0.4, side, draw)


def draw_metric(table: Table, index: int) -> Drawing:
    """Draw one metric: mean and 95 % interval of each row."""
    column, losses = table.columns[index], [row.name for row in table.losses]
    cells = {row.name: cell for row in table.rows if (cell := row.cells.get(column.name))}
    return _draw_cells(f"metric{index}", column.name, column.label, cells, losses, len(table.rows))


def draw_seen(seen: Seen, losses: Sequence[str], place: int) -> list[Drawing]:
    """Draw what a machine sees of groups of images and of each class: mean and 95 % interval of each row.

    Args:
        seen: one task under one protocol.
        losses: names in the order of the table, which gives the colours.
        place: of the task on the page.
    """
    stem = "IoU/" if seen.task == "segmentation" else "AP/"
    groups = [name for name in seen.overall if name.startswith(f"{seen.main}/")]
    drawings: list[Drawing] = []
    for name in [*groups, *(name for name in seen.by_class if name.startswith(stem))]:
        cells = {row: cell for k, row in enumerate(seen.rows) if (cell := seen.cell(name, k))}
        if cells:
            drawing = f"seen{place}-{len(drawings)}"
            drawings.append(_draw_cells(drawing, name, f"{name} ↑", cells, losses, len(seen.rows)))
    return drawings


def _draw_cells(
    drawing: str, name: str, title: str, cells: Mapping[str, Cell], losses: Sequence[str], rows: int
) -> Drawing:
    marks: list[Mark] = [
        (row, cell.mean, (cell.low, cell.high) if isfinite(cell.low) else None) for row, cell in cells.items()
    ]
    labels, lines = wrap_names(cells)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _draw_marks(axes, marks, losses, labels, 7)
        axes.set_title(_plain(title), fontsize=11)

    text = "; ".join(f"{row} {mean:.4g}" for row, mean, _ in marks)
    height = 0.9 + max(0.26, 0.17 * lines) * rows
    return Drawing(drawing, f"{name}: {text}", 4.4, height, draw)


def draw_curves(
    prefix: str, variants: Sequence[Variant], places: Mapping[str, int], keys: str
) -> list[Drawing]:
    """Draw a panel for each curve: the mean over seeds, and a band from the lowest to the highest seed.

    Args:
        prefix: start of the names of the drawings.
        variants: the losses whose curves are drawn together.
        places: places of the losses in the table, which give the colours.
        keys: start of the curves' names, such as "val/metric/".
    """
    names = sorted({key for v in variants for run in v.runs for key in run.curves if key.startswith(keys)})
    return [
        _draw_curve(f"{prefix}{index}", key, key.removeprefix(keys), variants, places)
        for index, key in enumerate(names)
    ]


def _draw_curve(
    name: str, key: str, title: str, variants: Sequence[Variant], places: Mapping[str, int]
) -> Drawing:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for variant in variants:
            curves = [run.curves[key] for run in variant.runs if run.curves.get(key)]
            if curves:
                _draw_band(axes, curves, style(places.get(variant.name, len(places))))
        axes.set_title(_plain(title), fontsize=11)
        axes.set_xlabel("training samples seen", fontsize=9)

    text = f"{title} over training samples: {', '.join(v.name for v in variants)}"
    return Drawing(name, text, 4.4, 2.7, draw)


def _draw_band(axes: Axes, curves: Sequence[Sequence[tuple[float, float]]], look: dict[str, Any]) -> None:
    x = np.unique(np.concatenate([[point[0] for point in curve] for curve in curves]))
    x = x[x <= min(curve[-1][0] for curve in curves)] if len(curves) > 1 else x
    x = x[np.unique(np.linspace(0, len(x) - 1, min(_POINTS, len(x))).round().astype(int))] if len(x) else x
    y = np.array([np.interp(x, *np.array(curve).T) for curve in curves])
    few = {} if len(x) > 12 else {"marker": look["marker"], "markersize": 4}
    axes.plot(x, y.mean(axis=0), color=look["color"], **few)
    if len(curves) > 1:
        axes.fill_between(x, y.min(axis=0), y.max(axis=0), color=look["color"], alpha=0.2, linewidth=0)


def wrap_names(names: Iterable[str], width: int = 24) -> tuple[list[str], int]:
    """Return names with line breaks, and the most lines of one."""
    cut = [textwrap.wrap(_plain(name), width) for name in names]
    return ["\n".join(lines) for lines in cut], max((len(lines) for lines in cut), default=1)


def _plain(text: str) -> str:
    """Return text that matplotlib draws unchanged: no formulas, no line breaks."""
    return text.replace("$", r"\$").replace("\n", " ")
