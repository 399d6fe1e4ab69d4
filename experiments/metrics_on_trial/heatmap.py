"""The heat map of ranks: rows are fusions, columns metrics."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

DARK = 0.13  # share of the ranks at either end whose colour asks for white figures


def draw(
    path: Path,
    order: Sequence[str],
    honest: Collection[str],
    names: Sequence[str],
    ranks: Mapping[str, np.ndarray],
    voting: Collection[str],
) -> None:
    """Draw mean ranks as colours, best fusion first.

    Args:
        path: of the image.
        order: fusions from top to bottom.
        honest: those whose names are printed in bold.
        names: fusions in the order of the ranks.
        ranks: column -> mean rank of each fusion; verdicts first.
        voting: columns of the balanced set, which are drawn beside the verdicts.
    """
    verdicts = [column for column in ranks if column.rpartition("-")[2].isdecimal()]
    columns = [*verdicts, *(c for c in voting if c in ranks)]
    first = len(columns)
    columns += [column for column in ranks if column not in columns]
    rows = [names.index(name) for name in order]
    table = np.array([ranks[column][rows] for column in columns]).T
    figure = Figure(figsize=(0.42 * len(columns) + 3, 0.27 * len(order) + 1.6), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(table, cmap=mpl.colormaps["RdYlBu_r"], vmin=1, vmax=len(order), aspect="auto")
    for row, column in np.ndindex(table.shape):
        dark = min(table[row, column] - 1, len(order) - table[row, column]) < DARK * len(order)
        shade = "white" if dark else "black"
        axes.text(column, row, f"{table[row, column]:.0f}", ha="center", va="center", fontsize=7, color=shade)
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="left", rotation_mode="anchor")
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(order)), order)
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() in honest else "normal")
    for edge in (len(verdicts), first):
        axes.axvline(edge - 0.5, color="black", linewidth=1.5)
    axes.tick_params(length=0)
    figure.colorbar(shown, ax=axes, shrink=0.5, label="mean rank; honest fusions in bold")
    figure.savefig(path, dpi=110)
