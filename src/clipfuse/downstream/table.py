"""The scores of several sources as a table, with what each lacks of both bands and of the better one."""

from collections.abc import Mapping, Sequence
from math import isfinite, nan
from statistics import fmean, stdev

from clipfuse.downstream.confusion import mean
from clipfuse.downstream.results import Result
from clipfuse.downstream.sources import BOTH

BANDS = ("infrared", "visible")
Results = Mapping[str, Sequence[Result]]


def result_table(results: Results, labels: Mapping[str, str] | None = None) -> str:
    """Return one line per source: its overall scores, and the differences of the first to `both` and a band.

    A cell holds the mean over task seeds and, of several, their sample standard deviation. Differences are
    taken seed by seed. Further tables have the scores by class. `-` stands where a score is not defined; one
    that no source has is left out.

    Args:
        results: of each source, for the same seeds.
        labels: more words about a source.
    """
    every = [one for each in results.values() for one in each]
    names = [
        name
        for name in dict.fromkeys(name for one in every for name in one.scores)
        if any(isfinite(one.scores.get(name, nan)) for one in every)
    ]
    overall = [name for name in names if "/" not in name]
    if not overall:
        return "no score is defined"
    first = overall[0]
    gaps = {f"{first} - {other}": other for other in (BOTH, better_band(results, first)) if other in results}
    shown = [*overall, *(name for name in names if name.startswith(f"{first}/"))]
    lines = []
    for source, found in results.items():
        label = f"{source} ({labels[source]})" if labels and labels.get(source) else source
        cells = [_cell([each.scores.get(name, nan) for each in found]) for name in shown]
        cells += [
            _cell(differences(found, results[other], first), "+") if other != source else ""
            for other in gaps.values()
        ]
        lines.append([label, *cells])
    tables = [_aligned(["source", *shown, *gaps], lines)]
    kinds = dict.fromkeys(name.partition("/")[0] for name in names if "/" in name)
    for kind in (kind for kind in kinds if kind not in overall):
        classes = [name for name in names if name.startswith(f"{kind}/")]
        rows = [
            [
                source,
                *(_cell([each.scores.get(name, nan) for each in found], spread=False) for name in classes),
            ]
            for source, found in results.items()
        ]
        head = [f"{kind} by class", *(name.partition("/")[2] for name in classes)]
        tables.append(_aligned(head, rows))
    return "\n\n".join(tables)


def better_band(results: Results, score: str) -> str:
    """Return the band with the higher mean score; the first where neither has one."""
    means = {band: mean([each.scores.get(score, nan) for each in results.get(band, ())]) for band in BANDS}
    return max(BANDS, key=lambda band: means[band] if isfinite(means[band]) else -1.0)


def differences(results: Sequence[Result], others: Sequence[Result], score: str) -> list[float]:
    """Return the score less that of another source for each seed that both have."""
    theirs = {each.seed: each.scores.get(score, nan) for each in others}
    return [each.scores.get(score, nan) - theirs[each.seed] for each in results if each.seed in theirs]


def mean_scores(results: Sequence[Result]) -> dict[str, float]:
    """Return the mean of each score over the seeds where it is defined; NaN where it is nowhere."""
    names = dict.fromkeys(name for each in results for name in each.scores)
    return {name: mean([each.scores.get(name, nan) for each in results]) for name in names}


def _cell(values: Sequence[float], sign: str = "", spread: bool = True) -> str:
    defined = [value for value in values if isfinite(value)]
    if not defined:
        return "-"
    return f"{fmean(defined):{sign}.2f}" + (f" ± {stdev(defined):.2f}" if spread and len(defined) > 1 else "")


def _aligned(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, *lines]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    text = ["  ".join(_padded(row, widths)).rstrip() for row in rows]
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(text)


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Return cells of these widths: the first begins, all others end at one place."""
    return [
        row[0].ljust(widths[0]),
        *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)),
    ]
