"""The pictures of numbers, as SVG that takes its ink from the page it stands in."""

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import StringIO
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipfuse.compare.table import Table
from clipfuse.compare.variants import Variant

# Okabe and Ito's colours less black and yellow, for eyes of all kinds on light and dark pages; then markers.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
MARKERS = "os^Dv*"
_INK = "#010203"  # stands for the page's own; no colour above is near
_POINTS = 150  # of a curve
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


def _svg(name: str, label: str, width: float, height: float, draw: Callable[[Figure], None]) -> str:
    """Return an inline SVG element.

    Args:
        name: prefix of its ids, unique within the page.
        label: what a screen reader says.
        width: in inches at 96 per inch.
        height: the same.
        draw: draws into the figure.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        out = StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r' id="', f' id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"(\d+\.\d\d)\d+", r"\1", text)  # a hundredth of a point
    size = f'width="{width * 96:.0f}" height="{height * 96:.0f}"'
    escaped = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return re.sub(r'width="[^"]+" height="[^"]+"|height="[^"]+" width="[^"]+"', size, text, count=1).replace(
        "<svg ", f'<svg role="img" aria-label="{escaped}" ', 1
    )


def rank_picture(table: Table) -> str | None:
    """Draw average ranks with their intervals and Nemenyi's critical difference; None with one loss."""
    losses = table.losses
    if len(losses) < 2:
        return None
    labels, lines = _labels(row.name for row in losses)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, row in enumerate(losses):
            assert row.rank is not None
            assert row.rank_interval is not None
            look = style(place)
            axes.plot(row.rank_interval, [-place, -place], color=look["color"], linewidth=3, alpha=0.5)
            axes.plot(row.rank, -place, **look, markersize=8)
        axes.set_yticks([-place for place in range(len(losses))], labels)
        if table.critical_difference is not None:
            best = losses[0].rank or 0
            axes.axvspan(best, best + table.critical_difference, color=_INK, alpha=0.1, linewidth=0)
            axes.plot([best, best + table.critical_difference], [0.6, 0.6], color=_INK, linewidth=2)
            axes.text(
                best, 0.68, f"critical difference {table.critical_difference:.2f}", va="bottom", fontsize=9
            )
        axes.set(
            xlabel="average rank (1 is best)", xlim=(0.9, len(losses) + 0.1), ylim=(0.4 - len(losses), 1.1)
        )

    told = "; ".join(f"{row.name} {row.rank:.2f}" for row in losses)
    return _svg("ranks", f"Average ranks: {told}", 5.4, 1.3 + max(0.4, 0.17 * lines) * len(losses), draw)


def interval_picture(table: Table, index: int) -> str:
    """Draw one metric: mean and interval of each row."""
    column = table.columns[index]
    rows = [
        (place, row, cell) for place, row in enumerate(table.rows) if (cell := row.cells.get(column.name))
    ]
    labels, lines = _labels(row.name for _, row, _ in rows)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, row, cell in rows:
            look = {"color": _INK, "marker": "|"} if row.trivial else style(place)
            axes.plot([cell.low, cell.high], [-place, -place], color=look["color"], linewidth=3, alpha=0.4)
            axes.plot(cell.mean, -place, **look, markersize=7)
        axes.set_yticks([-place for place, _, _ in rows], labels)
        axes.set_title(_plain(column.label), fontsize=11)

    told = "; ".join(f"{row.name} {cell.mean:.4g}" for _, row, cell in rows)
    return _svg(
        f"metric{index}", f"{column.name}: {told}", 4.4, 0.9 + max(0.26, 0.17 * lines) * len(table.rows), draw
    )


def curve_pictures(
    prefix: str, variants: Sequence[Variant], places: Mapping[str, int], keys: str
) -> list[str]:
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


def _curve(name: str, key: str, title: str, variants: Sequence[Variant], places: Mapping[str, int]) -> str:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for variant in variants:
            curves = [run.curves[key] for run in variant.runs if run.curves.get(key)]
            if curves:
                _band(axes, curves, style(places.get(variant.name, len(places))))
        axes.set_title(_plain(title), fontsize=11)
        axes.set_xlabel("training samples seen", fontsize=9)

    return _svg(name, f"{title} over training samples: {', '.join(v.name for v in variants)}", 4.4, 2.7, draw)


def _band(axes: Axes, curves: Sequence[Sequence[tuple[float, float]]], look: dict[str, Any]) -> None:
    x = np.unique(np.concatenate([[point[0] for point in curve] for curve in curves]))
    x = x[x <= min(curve[-1][0] for curve in curves)] if len(curves) > 1 else x
    x = x[np.unique(np.linspace(0, len(x) - 1, min(_POINTS, len(x))).round().astype(int))] if len(x) else x
    y = np.array([np.interp(x, *np.array(curve).T) for curve in curves])
    few = {} if len(x) > 12 else {"marker": look["marker"], "markersize": 4}
    axes.plot(x, y.mean(axis=0), color=look["color"], **few)
    if len(curves) > 1:
        axes.fill_between(x, y.min(axis=0), y.max(axis=0), color=look["color"], alpha=0.2, linewidth=0)


def _labels(names: Iterable[str]) -> tuple[list[str], int]:
    """Return names in lines that leave a picture its room, and the most lines of one."""
    wrapped = [textwrap.wrap(_plain(name), 24) for name in names]
    return ["\n".join(lines) for lines in wrapped], max((len(lines) for lines in wrapped), default=1)


def _plain(text: str) -> str:
    """Return text that matplotlib takes as it stands: no formulas, no line breaks."""
    return text.replace("$", r"\$").replace("\n", " ")
