"""The answer in words: what won, by how much, how sure."""

from collections import Counter
from collections.abc import Sequence

from clipfuse.compare.table import ALPHA, Row, Table

SURE, LIKELY = 0.95, 0.8  # shares of the resamples; below them nothing is called decided
FEW_SEEDS = 5


def verdict(table: Table) -> list[str]:
    """Return sentences, the answer first."""
    sentences = [
        *_winner(table),
        *_against_baseline(table),
        *_seeds(table),
        *_trivial(table),
        *_undefined(table),
    ]
    return [sentence[0].upper() + sentence[1:] if sentence[0] != "'" else sentence for sentence in sentences]


def _winner(table: Table) -> list[str]:
    losses = table.losses
    if len(losses) == 1:
        return [f"there is one loss, '{losses[0].name}': nothing to compare it with."]
    best, second = losses[0], losses[1]
    assert best.rank is not None
    assert best.first is not None
    seeds = min(len(row.seeds) for row in losses)
    if best.first >= SURE and seeds >= FEW_SEEDS:
        opening = f"'{best.name}' wins"
    elif best.first >= SURE:
        few = f"{_count(seeds, 'seed')} {'is' if seeds == 1 else 'are'} too few"
        opening = f"'{best.name}' is ahead, but {few} to be sure"
    elif best.first >= LIKELY:
        opening = f"'{best.name}' is probably ahead"
    else:
        opening = f"undecided: '{best.name}' is ahead by a little"
    metrics, scenes = _metrics(table), _count(table.scenes, "scene")
    places = sum(cell.place == 1 for cell in best.cells.values())
    over = "seeds and scenes" if seeds > 1 else "scenes"
    sentences = [
        f"{opening}: average rank {best.rank:.2f} of {len(losses)} over {metrics} and {scenes}; next is "
        f"'{second.name}' with {second.rank:.2f}.",
        f"it has the best mean on {places} of {metrics} and comes first in {best.first:.0%} of the resamples "
        f"over {over}.",
    ]
    if table.critical_difference is not None:
        near = [row for row in losses[1:] if (row.rank or 0) - best.rank < table.critical_difference]
        told = _quoted(near) if near else "no other"
        sentences.append(
            f"by Nemenyi's test on {scenes} (critical difference {table.critical_difference:.2f}) it is not "
            f"told apart from: {told}."
        )
    return sentences


def _against_baseline(table: Table) -> list[str]:
    sentences = []
    for row in table.losses:
        tests = [cell.against.better for cell in row.cells.values() if cell.against]
        if tests:
            better, worse = tests.count(1), tests.count(-1)
            sentences.append(
                f"'{row.name}' is clearly better than '{table.baseline}' on {better} of "
                f"{_count(len(tests), 'metric')} and worse on {worse}."
            )
    if sentences:
        frames = "; the test takes frames of one scene as independent, which they are not"
        sentences.append(
            f"clearly: Wilcoxon's test over {_count(len(table.images), 'image')}, Holm-corrected over "
            f"{_count(table.tests, 'test')}, has p < {ALPHA:g}, and the 95 % interval over seeds and scenes "
            f"leaves out 0{frames if table.scenes < len(table.images) else ''}."
        )
    return sentences


def _seeds(table: Table) -> list[str]:
    counts = sorted({len(row.seeds) for row in table.losses})
    if counts[0] >= FEW_SEEDS:
        return []
    told = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    more = "; with one seed the intervals hold none of it" if counts[0] == 1 else ""
    plural = "" if counts[-1] == 1 else "s"
    return [f"{told} seed{plural} per loss: how much seeds vary is barely known{more}."]


def _trivial(table: Table) -> list[str]:
    beaten: Counter[str] = Counter()
    for column in table.columns:
        sign = 1 if column.higher_is_better else -1
        means = [sign * row.cells[column.name].mean for row in table.losses if column.name in row.cells]
        for row in table.rows:
            cell = row.cells.get(column.name) if row.trivial else None
            beaten[row.name] += bool(cell and means and sign * cell.mean > max(means))
    told = [f"{name} on {count}" for name, count in beaten.items() if count]
    return [f"trivial fusions that beat every loss: {', '.join(told)} of {_metrics(table)}."] * bool(told)


def _undefined(table: Table) -> list[str]:
    counts = [f"{column.name} ({column.left_out})" for column in table.columns if column.left_out]
    return [
        f"images left out, as a metric is not defined on them for every run: {', '.join(counts)}."
    ] * bool(counts)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _metrics(table: Table) -> str:
    return _count(len(table.columns), "metric")


def _quoted(rows: Sequence[Row]) -> str:
    return ", ".join(f"'{row.name}'" for row in rows)
