"""Scores of several methods as a table of text: the one way they are printed."""

from collections.abc import Mapping, Sequence
from math import isclose, isfinite
from statistics import fmean, stdev

from clipfuse.metrics.protocols import OF_THE_USER, UNCHECKED, Protocol
from clipfuse.metrics.verdict import BALANCED, CLASSIC

MARK = "*"


def score_table(protocol: Protocol, scores: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Return one line per metric and one column per method, with the protocol's name and version.

    A cell holds mean and sample standard deviation over images; with several methods also the rank of
    the mean, 1 the best, ties sharing the better one. Arrows say which way is better. The last line is the
    rank by the verdict set `balanced` where its metrics are there, else by `classic`.

    Args:
        protocol: the protocol of all scores.
        scores: method -> metric -> one score per image; a score that is not finite marks the metric
            as not defined for this image: it is left out and counted below the table.
    """
    methods = list(scores)
    metrics = [name for name in protocol.metrics if any(name in each for each in scores.values())]
    defined = {
        (method, name): [score for score in scores[method].get(name, ()) if isfinite(score)]
        for method in methods
        for name in metrics
    }
    ranks = {name: _ranks({m: defined[m, name] for m in methods}, protocol, name) for name in metrics}
    lines = [["metric", *methods]]
    for name in metrics:
        better = "↑" if protocol.definition(name).higher_is_better else "↓"
        mark = "" if name in protocol.checked else MARK
        ranked = ranks[name] if len(methods) > 1 else {}
        cells = [_cell(defined[method, name], ranked.get(method)) for method in methods]
        lines.append([f"{name} {better}{mark}", *cells])
    verdict = BALANCED if not BALANCED.missing(metrics) else CLASSIC
    families = verdict.families(metrics)
    if len(methods) > 1 and families:
        lines.append([f"rank, {verdict} ↓", *(_mean_rank(families, ranks, method) for method in methods)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    rows.insert(1, "  ".join("-" * width for width in widths))
    notes = [f"protocol {protocol}: {protocol.summary}"]
    if "LPIPS" in metrics and protocol.lpips is not None:
        notes.append(f"LPIPS by {protocol.lpips}")
    if len(methods) > 1 and families:
        notes.append(f"rank by {verdict}, mean of the ranks of means: {verdict.summary}")
    marked = [name for name in metrics if name not in protocol.checked]
    for reason, of_user in ((UNCHECKED, False), (OF_THE_USER, True)):
        if names := [name for name in marked if (name in protocol.own) is of_user]:
            notes.append(f"{MARK} {reason}: {', '.join(names)}")
    for method in methods:
        for name in metrics:
            images, side = len(scores[method].get(name, ())), protocol.definition(name).smallest
            if missing := images - len(defined[method, name]):
                need = f" (it needs sides of {side} px)" if side > 16 else ""
                notes.append(f"{name} is not defined for {missing} of {images} images of {method}{need}")
    return "\n".join(row.rstrip() for row in [*rows, *notes])


def _mean_rank(
    families: Mapping[str, Sequence[str]], ranks: Mapping[str, Mapping[str, int]], method: str
) -> str:
    """Return the mean over families of the mean of a method's ranks by their metrics."""
    voted = [
        [ranks[name][method] for name in members if method in ranks[name]] for members in families.values()
    ]
    means = [fmean(places) for places in voted if places]
    return f"{fmean(means):.2f}" if means else "-"


def _cell(scores: Sequence[float], rank: int | None) -> str:
    if not scores:
        return "-"
    spread = f" ± {_number(stdev(scores))}" if len(scores) > 1 else ""
    return f"{_number(fmean(scores))}{spread}" + (f" ({rank})" if rank else "")


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) >= 1000 else f"{value:.{3 if abs(value) < 10 else 2}f}"


def _ranks(scores: Mapping[str, Sequence[float]], protocol: Protocol, name: str) -> dict[str, int]:
    sign = -1 if protocol.definition(name).higher_is_better else 1
    means = {method: sign * fmean(values) for method, values in scores.items() if values}
    # Means that differ by rounding alone are a tie.
    better = {
        method: [
            other for other in means.values() if other < mean and not isclose(other, mean, abs_tol=1e-12)
        ]
        for method, mean in means.items()
    }
    return {method: 1 + len(others) for method, others in better.items()}
