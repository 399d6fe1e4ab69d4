"""Drawings of the board: ranks with their intervals, and quality against time and size."""

from collections.abc import Sequence

from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from clipfuse.board.ranks import Ranked
from clipfuse.board.standings import Standing
from clipfuse.comparison.plots import Drawing, style, wrap_names

AXES = (("seconds", "seconds per image"), ("parameters", "parameters of the network"))
Point = tuple[int, float, float]  # place of the method in the table, cost, rank


def draw_ranks(standing: Standing, ranked: Ranked, name: str) -> Drawing:
    """Draw the average ranks of a table with their 95 % intervals over scenes, first at the top."""
    found = [
        (each, place)
        for each, place in zip(standing.entries, ranked.places, strict=True)
        if place is not None
    ]
    found.sort(key=lambda pair: pair[1].rank)
    colors = {each.method: place for place, each in enumerate(standing.entries)}
    labels, lines = wrap_names(entry.method for entry, _ in found)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for height, (entry, place) in enumerate(found):
            look = style(colors[entry.method])
            if entry.trivial:
                look = {"color": str(rcParams["text.color"]), "marker": "|"}
            axes.plot(
                [place.low, place.high], [-height, -height], color=look["color"], linewidth=3, alpha=0.45
            )
            axes.plot(place.rank, -height, **look, markersize=8)
        axes.set_yticks([-height for height in range(len(found))], labels)
        axes.set_xlabel(f"average rank by {ranked.verdict_set} (1 is best)", fontsize=9)

    text = "; ".join(f"{entry.method} {place.rank:.2f}" for entry, place in found)
    title = f"Average ranks on {standing.title} by {ranked.verdict_set}: {text}"
    return Drawing(name, title, 5.6, 0.8 + max(0.28, 0.17 * lines) * len(found), draw)


def draw_costs(standing: Standing, name: str) -> Drawing | None:
    """Draw average ranks against seconds per image and parameters, with the methods that none dominates.

    None where neither is known of two methods.
    """
    panels = [(title, points) for key, title in AXES if len(points := _points(standing, key)) > 1]
    if not panels:
        return None
    trivial = [
        place.rank
        for each, place in zip(standing.entries, standing.ranked[0].places, strict=True)
        if each.trivial and place is not None
    ]
    verdict_set = standing.ranked[0].verdict_set

    def draw(figure: Figure) -> None:
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (title, points) in zip(grid, panels, strict=True):
            front = pareto(points)
            axes.plot(
                [cost for _, cost, _ in front],
                [rank for *_, rank in front],
                drawstyle="steps-post",
                color=str(rcParams["text.color"]),
                alpha=0.5,
                linewidth=1,
            )
            for row, cost, rank in points:
                axes.plot(cost, rank, **style(row), markersize=8)
                label = wrap_names([standing.entries[row].method], 18)[0][0]
                axes.annotate(
                    label, (cost, rank), xytext=(6, 4), textcoords="offset points", fontsize=8, clip_on=True
                )
            if trivial:
                axes.axhline(min(trivial), color=str(rcParams["text.color"]), linestyle=":", linewidth=1)
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
            spent = [cost for _, cost, _ in points]
            axes.set_xlim(min(spent) / 3, max(spent) * 8)  # room for whole decades and for names
            axes.margins(y=0.2)
            axes.set_xlabel(title, fontsize=9)
        grid[0].invert_yaxis()
        grid[0].set_ylabel(f"average rank by {verdict_set}", fontsize=9)

    words = [
        f"{title}: "
        + "; ".join(
            f"{standing.entries[row].method} {cost:.4g}, rank {rank:.2f}" for row, cost, rank in points
        )
        for title, points in panels
    ]
    return Drawing(name, f"Quality against cost on {standing.title}. {'. '.join(words)}", 8.4, 3.6, draw)


def _points(standing: Standing, key: str) -> list[Point]:
    if not standing.ranked:
        return []
    found = []
    for row, (entry, place) in enumerate(zip(standing.entries, standing.ranked[0].places, strict=True)):
        cost = getattr(entry.about, key)
        if cost and place is not None:
            found.append((row, float(cost), place.rank))
    return found


def pareto(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other has both a lower or equal cost and a better rank than, by cost."""
    front: list[Point] = []
    for point in sorted(points, key=lambda each: (each[1], each[2])):
        if not front or point[2] < front[-1][2]:
            front.append(point)
    return front
