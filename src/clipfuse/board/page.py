"""The leaderboard as one HTML page that needs no other file and no network."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from statistics import fmean

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from clipfuse.board.drawings import draw_costs, draw_ranks
from clipfuse.board.ranks import Place
from clipfuse.board.results import About
from clipfuse.board.standings import Column, Standing, in_words
from clipfuse.comparison.album import Album
from clipfuse.comparison.formats import MISSING, ends, p_value
from clipfuse.comparison.machine import Seen
from clipfuse.comparison.statistics import Estimate
from clipfuse.comparison.table import FEW_SCENES
from clipfuse.metrics.verdict import BALANCED, FAMILIES


@dataclass(frozen=True)
class Line:
    """A method in the overview of a protocol.

    Attributes:
        method: its name.
        trivial: whether it is a trivial fusion.
        places: by table; None where it has none.
        mean: mean of its ranks, each as a share of what is ranked in the table; None unless it is in all
            tables and these are ranked by one verdict set.
        about: its size and time, where any of its results has them.
    """

    method: str
    trivial: bool
    places: Sequence[Place | None]
    mean: float | None
    about: About


def overview(standings: Sequence[Standing]) -> dict[str, tuple[list[Standing], list[Line]]]:
    """Return for each protocol its tables of clean pairs, and the methods with their ranks in them."""
    found = {}
    for protocol in dict.fromkeys(each.protocol for each in standings):
        tables = [each for each in standings if each.protocol == protocol and each.degradation is None]
        if not tables:
            continue
        alike = len({str(each.ranked[0].verdict_set) for each in tables if each.ranked}) == 1
        lines = []
        for method in dict.fromkeys(entry.method for each in tables for entry in each.entries):
            places = [
                each.place(method, each.ranked[0].verdict_set) if each.ranked else None for each in tables
            ]
            shares = [
                place.rank / table.ranked[0].trainings
                for place, table in zip(places, tables, strict=True)
                if place is not None
            ]
            own = [entry for each in tables for entry in each.entries if entry.method == method]
            mean = fmean(shares) if len(shares) == len(tables) and alike else None
            timed = next((each.about for each in own if each.about.seconds is not None), own[0].about)
            parameters = next((p for e in own if (p := e.about.parameters) is not None), None)
            lines.append(Line(method, own[0].trivial, places, mean, replace(timed, parameters=parameters)))
        lines.sort(key=lambda line: (line.mean is None, line.mean or 0, line.method))
        found[protocol] = tables, lines
    return found


def page(
    standings: Sequence[Standing],
    seen: Sequence[Seen],
    album: Album,
    notes: Sequence[str],
    command: str,
    title: str = "Leaderboard",
) -> str:
    """Return the page.

    Args:
        standings: the tables.
        seen: what task networks found.
        album: the images.
        notes: what is left out of all tables, in lines.
        command: the command line that writes this page.
        title: of the page.
    """
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("clipfuse.board", "."), PackageLoader("clipfuse.comparison", ".")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {}  # keep the order of the images
    methods = list(dict.fromkeys(entry.method for each in standings for entry in each.entries))
    parts = [
        (
            each,
            in_words(each),
            [draw_ranks(each, ranked, f"ranks{place}-{k}").inline() for k, ranked in enumerate(each.ranked)],
            drawing.inline() if (drawing := draw_costs(each, f"costs{place}")) else "",
        )
        for place, each in enumerate(standings)
    ]
    return environment.get_template("board.html.j2").render(
        title=title,
        methods=methods,
        overview=overview(standings),
        parts=parts,
        seen=seen,
        album=album,
        data={"images": album.uris, "losses": methods},
        notes=notes,
        command=command,
        BALANCED=BALANCED,
        FEW_SCENES=FEW_SCENES,
        FAMILIES=FAMILIES,
        MISSING=MISSING,
        span=_span,
        estimate=_estimate,
        worse=_worse,
        ends=ends,
        p_value=p_value,
        count=_count,
        drop_columns=_drop_columns,
        seconds=_seconds,
    )


def _span(low: float, high: float, decimals: int) -> str:
    return f"{low:.{decimals}f} to {high:.{decimals}f}" if isfinite(low) else "no interval"


def _estimate(each: Estimate, decimals: int) -> tuple[str, str]:
    low, high = each.interval()
    shown = f"{low:+.{decimals}f} to {high:+.{decimals}f}" if isfinite(low) else "no interval"
    return f"{each.value:+.{decimals}f}", shown


def _worse(each: Estimate) -> bool:
    """Whether the interval of a cost holds losses alone."""
    return isfinite(each.interval()[0]) and each.interval()[0] > 0


def _count(number: int | None) -> str:
    return MISSING if number is None else f"{number:,}".replace(",", "\u202f")


def _seconds(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3g}"


def summary(standings: Sequence[Standing], seen: Sequence[Seen], notes: Sequence[str]) -> list[str]:
    """Return the board in lines for a terminal."""
    lines: list[str] = [*notes]
    for each in standings:
        lines += ["", f"{each.title} by {each.protocol}: {each.images} images of {each.scenes} scenes"]
        lines += _table(each)
        lines += [*in_words(each), *each.notes]
    for part in seen:
        lines += [
            "",
            f"{part.task} by {part.protocol}: {len(part.images)} images of {len(part.scenes)} scenes",
        ]
        for row, name in enumerate(part.rows):
            cell = part.cell(part.main, row)
            lines += (
                []
                if cell is None
                else [f"  {name}: {part.main} {cell.mean:.2f} ({ends(cell.low, cell.high)})"]
            )
    return lines


def _table(standing: Standing) -> list[str]:
    heads = ["method", *(f"rank, {ranked.verdict_set}" for ranked in standing.ranked)]
    rows = [heads]
    for row, entry in enumerate(standing.entries):
        cells = [ranked.places[row] for ranked in standing.ranked]
        shown = [MISSING if c is None else f"{c.rank:.2f} ({c.low:.2f} to {c.high:.2f})" for c in cells]
        rows.append([entry.method, *shown])
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _drop_columns(standing: Standing) -> list[Column]:
    return [
        column for column in standing.columns if any(column.name in drop.costs for drop in standing.drops)
    ]
