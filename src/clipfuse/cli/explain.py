"""`clipfuse score --explain TABLE.csv`: by which protocol the numbers of a published table were computed."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10, nan
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from clipfuse.errors import UserError

if TYPE_CHECKING:
    from clipfuse.metrics.scoring import Scorer

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]  # method -> image -> metric -> score
Row = tuple[str | None, str | None]  # method and image; None stands for all

EXACT = 9  # digits up to which a protocol reproduces its own numbers
FEW = 3  # digits below which an agreement may be chance
MOST = 10_000  # cells
# What tables call them, in small letters and digits alone.
ALIASES = {"entropy": "en", "std": "sd", "vifp": "vif", "fmi": "fmipixel", "qg": "qabf", "qp": "qabf"}
ALSO = {"VIFF": ("VIFF", "VIF")}  # most columns with the first name hold the second metric
_NO_LABELS = ("protocol", "scene")  # columns of our own files
_NUMBER = re.compile(r"[-+]?\d+(?:\.(\d+))?(?:[eE]([-+]?\d+))?")


@dataclass(frozen=True)
class Cell:
    """One published number.

    Attributes:
        row: method and image it is of.
        metric: its column's name.
        value: the number.
        places: decimals that are printed; negative for 12e3.
    """

    row: Row
    metric: str
    value: float
    places: int

    @property
    def printed(self) -> int:
        """Number of significant digits that are printed, of which at most `EXACT` are compared."""
        order = floor(log10(abs(self.value))) if self.value else -self.places
        return min(max(1, order + self.places + 1), EXACT)

    def agreeing(self, ours: float) -> int:
        """Return how many significant digits `ours` has in common with it, rounded to as many."""
        order = floor(log10(abs(self.value))) if self.value else -self.places
        difference = abs(ours - self.value) * (1 - 1e-9)
        digits = range(self.printed, 0, -1)
        return next((n for n in digits if difference <= 0.5 * 10.0 ** (order - n + 1)), 0)


def explanation(
    path: Path,
    methods: Sequence[str],
    images: Sequence[str],
    score: Callable[[Sequence["Scorer"]], Sequence[Scores]],
) -> Iterator[str]:
    """Yield the lines that explain a table of published numbers.

    Args:
        path: as for `read_published`, as `methods` and `images`.
        methods: labels of the folders of fused images.
        images: names of the images.
        score: gives the scores of all of them by each scorer.

    Raises:
        UserError: as `read_published`.
    """
    from clipfuse.metrics import DEFINITIONS, PROTOCOLS, Scorer

    known = [name for name in PROTOCOLS["strict"].metrics if not DEFINITIONS[name].needs_mask]
    cells, notes = read_published(path, methods, images, known)
    wanted = {name for cell in cells for name in ALSO.get(cell.metric, (cell.metric,))}
    scorers = [
        Scorer(protocol, names)
        for protocol in PROTOCOLS.values()
        if (names := [name for name in protocol.metrics if name in wanted])
    ]
    scores = {str(one.protocol): each for one, each in zip(scorers, score(scorers), strict=True)}
    yield f"{path}: {len(cells)} numbers, {len(images)} images"
    yield from explain(cells, scores)
    yield from notes


def read_published(
    path: Path, methods: Sequence[str], images: Sequence[str], known: Iterable[str]
) -> tuple[list[Cell], list[str]]:
    """Read a table of published numbers: method x metric or image x metric, or metrics in its rows.

    Args:
        path: CSV, parted by commas, semicolons or tabs. A cell may be "6.83±0.5", "**6.83**" or empty.
        methods: labels of the folders of fused images.
        images: names of the images.
        known: names of metrics.

    Returns:
        The numbers of known metrics in rows of these methods and images; and, for people, what else the
        table has.

    Raises:
        UserError: the file cannot be read, or has no number of these.
    """
    from clipfuse.files import read_text

    names = {_plain(name): name for name in known}
    lines = read_text(path, kind="CSV").splitlines()
    delimiter = max(",;\t", key=lines[0].count) if lines else ","
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter) if any(row)]
    except csv.Error as error:
        raise UserError(f"{path}: cannot be read as CSV ({error}); repair the table") from None
    width = max(map(len, rows), default=0)
    rows = [row + [""] * (width - len(row)) for row in rows]
    if rows and not any(_metric(cell, names) for cell in rows[0]):
        rows = [list(column) for column in zip(*rows, strict=True)]
    if not rows or not any(_metric(cell, names) for cell in rows[0]):
        raise UserError(f"{path}: names no metric; expected a row or column of {', '.join(names.values())}")
    header, *rows = rows
    metrics = {column: name for column, cell in enumerate(header) if (name := _metric(cell, names))}
    labels = [column for column in range(min(metrics)) if header[column] not in _NO_LABELS]
    cells, unknown = [], []
    for row in rows:
        label = [row[column] for column in labels if row[column]]
        found = _row(label, methods, images, only=len(rows) == 1)
        if found is None:
            unknown.append(" ".join(label))
            continue
        cells += [
            Cell(found, metrics[column], *number) for column in metrics if (number := _number(row[column]))
        ]
    if not cells or len(cells) > MOST:
        raise UserError(
            f"{path}: has {len(cells)} numbers in rows of {', '.join(methods)} or of an image; expected 1 to "
            f"{MOST} (other rows: {', '.join(unknown[:5]) or 'none'}); label the folders like the rows, "
            "as in --fused ROW=DIR"
        )
    notes = [f"rows left out, as no folder or image has their name: {', '.join(unknown)}"] if unknown else []
    rest = [
        cell for cell in header[min(metrics) :] if cell not in (*_NO_LABELS, "") and not _metric(cell, names)
    ]
    notes += [f"columns left out, as no metric here has their name: {', '.join(rest)}"] if rest else []
    return cells, notes


def explain(cells: Sequence[Cell], scores: Mapping[str, Scores]) -> Iterator[str]:
    """Yield the lines that explain a table: by metric, how far each protocol agrees; then the conclusion.

    Args:
        cells: the published numbers.
        scores: by protocol, as `clipfuse score` computes them; metrics that it lacks are absent.
    """
    metrics = list(dict.fromkeys(cell.metric for cell in cells))
    agreements = {
        name: {metric: _agreement(cells, metric, scores[name]) for metric in metrics} for name in scores
    }
    lines = [["metric", "numbers", "digits", *scores]]
    followed: dict[str, list[str]] = {}
    for metric in metrics:
        digits = [cell.printed for cell in cells if cell.metric == metric]
        row = [agreements[name][metric] for name in scores]
        followed[metric] = [name for name, found in zip(scores, row, strict=True) if found and found[1]]
        marks = ["-" if found is None else "all" if found[1] else str(found[0]) for found in row]
        span = f"{min(digits)}" if min(digits) == max(digits) else f"{min(digits)}-{max(digits)}"
        lines.append([metric, str(len(digits)), span, *marks])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    yield from ("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
    yield "digits: printed; below a protocol: how many of them agree in its worst number, or all"
    yield ""
    for metric, names in followed.items():
        found = ", ".join(names) if names else f"no protocol{_nearest(metric, agreements)}"
        alike = "; these give one number here" if len(names) > 1 else ""
        few = max(cell.printed for cell in cells if cell.metric == metric) < FEW
        yield f"{metric}: {found}{alike}{'; few digits, it may be chance' if names and few else ''}"
    yield _conclusion(followed)


def _conclusion(followed: Mapping[str, Sequence[str]]) -> str:
    explained = [metric for metric, names in followed.items() if names]
    if not explained:
        return (
            "The table follows no protocol: it is of other images, of another version of a method, or of a "
            "convention that is not here."
        )
    whole = [name for name in followed[explained[0]] if all(name in names for names in followed.values())]
    if len(whole) == 1:
        return f"The table follows {whole[0]}."
    if whole:
        return f"The table follows {' and '.join(whole)} alike; they differ in other metrics."
    rest = [metric for metric in followed if metric not in explained]
    text = "No single protocol has all of its numbers"
    return f"{text}; not explained: {', '.join(rest)}." if rest else f"{text}; each is found in some."


def _nearest(metric: str, agreements: Mapping[str, Mapping[str, tuple[int, bool] | None]]) -> str:
    digits = {name: found[0] for name, each in agreements.items() if (found := each[metric])}
    most = max(digits.values(), default=0)
    best = [name for name, count in digits.items() if count == most]
    return f"; nearest {', '.join(best)}, {most} digit{'s' * (most > 1)}" if most else ""


def _agreement(cells: Sequence[Cell], metric: str, scores: Scores) -> tuple[int, bool] | None:
    """Return the digits that agree in the worst number, and whether all do in all; None without a score."""
    found = []
    for name in ALSO.get(metric, (metric,)):
        compared = []
        for cell in cells:
            if cell.metric == metric and (ours := _score(cell, name, scores)) is not None:
                compared.append((digits := cell.agreeing(ours), digits == cell.printed))
        if compared:
            found.append((min(digits for digits, _ in compared), all(whole for _, whole in compared)))
    return max(found, key=lambda each: (each[1], each[0]), default=None)


def _score(cell: Cell, metric: str, scores: Scores) -> float | None:
    method, image = cell.row
    rows = scores[method or next(iter(scores))]
    chosen = [rows[image]] if image is not None else list(rows.values())
    values = [row[metric] for row in chosen if isfinite(row.get(metric, nan))]
    return fmean(values) if values else None


def _row(label: Sequence[str], methods: Sequence[str], images: Sequence[str], only: bool) -> Row | None:
    """Return the method and image that a row is of; None if there are none such."""
    method = next((each for each in methods for word in label if each.casefold() == word.casefold()), None)
    stems = {Path(word).stem for word in label} | set(label)
    image = next((each for each in images if each in stems), None)
    if method is None and max(len(methods), len(label)) > 1:
        return None
    return None if method is None and image is None and not only else (method, image)


def _metric(cell: str, names: Mapping[str, str]) -> str | None:
    plain = _plain(cell)
    return names.get(plain) or names.get(ALIASES.get(plain, ""))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _number(cell: str) -> tuple[float, int] | None:
    """Return a cell's first number and its printed decimals; a deviation or a rank after it is left out."""
    found = _NUMBER.search(cell)
    if found is None:
        return None
    return float(found[0]), len(found[1] or "") - int(found[2] or 0)
