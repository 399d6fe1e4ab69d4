"""The verdict in words: which loss wins, by how much, how certain that is, and what remains open."""

from collections import Counter
from collections.abc import Sequence

from clipfuse.comparison.formats import FOUND, p_value
from clipfuse.comparison.statistics import LEVEL
from clipfuse.comparison.table import Difference, Row, Table

SHOWN = 3  # names in a list, before "and N more"


def verdict(table: Table) -> list[str]:
    """Return the sentences of the verdict, the winner or the reason for none first."""
    sentences = [
        *_winner(table),
        *_ranks(table),
        *_twins(table),
        *_differences(table),
        *_divided(table),
        *_power(table),
        *_trivial(table),
        *_classic(table),
        *_undefined(table),
        *(sentence for each in table.seen for sentence in each.sentences()),
    ]
    return [sentence[0].upper() + sentence[1:] if sentence[0] != "'" else sentence for sentence in sentences]


def _winner(table: Table) -> list[str]:
    losses = table.losses
    if len(losses) == 1:
        return [f"there is one loss, '{losses[0].name}': nothing to compare it with."]
    if table.seeds == 1:
        if table.runs == len(losses):
            many = _word(len(losses))
            return [f"one training each: these are {many} networks, not {many} losses."]
        single = [row for row in losses if len(row.seeds) == 1]
        return [
            f"no winner is named: of {_quoted(single)} there is one training, which is a network, not a loss."
        ]
    if table.too_few:
        return [f"no winner is named: {', and '.join(table.too_few)}."]
    best = losses[0]
    open_to = [rival for rival in table.rivals if not rival.beaten]
    ahead = _trivial_ahead(table)
    if not open_to and not ahead:
        closest = max(table.rivals, key=lambda rival: rival.estimate.p)
        against = "" if len(losses) == 2 else f", against '{closest.name}'"
        return [
            f"'{best.name}' wins: its trainings rank before those of {_rivals(losses)} "
            f"(largest p {p_value(closest.estimate.p)}{against})."
        ]
    if not open_to:
        return [
            f"nothing wins: '{best.name}' ranks before {_rivals(losses)}, but behind "
            f"{_trivially(ahead)}, which takes no training."
        ]
    near = [f"'{rival.name}' (p {p_value(rival.estimate.p)})" for rival in open_to]
    return [
        f"undecided: '{best.name}' has the best average rank, but no test separates it from {_list(near)}."
    ]


def _rivals(losses: Sequence[Row]) -> str:
    return f"'{losses[1].name}'" if len(losses) == 2 else "every other loss"


def _ranks(table: Table) -> list[str]:
    losses = table.losses
    if len(losses) == 1:
        return []
    best, second = losses[0], losses[1]
    assert best.rank is not None
    over = f"{table.verdict_set} ({_families(table)}) and {_scenes(table)}"
    if table.runs == len(losses):
        return [
            f"on these scenes the network trained with '{best.name}' ranks best: {best.rank:.2f} of "
            f"{table.runs} on average over {over}; next is that of '{second.name}' with {second.rank:.2f}. "
            "With another seed this may differ.",
            _stable(table),
        ]
    first = []
    if best.first is not None:
        first = [
            f"'{best.name}' comes first in {best.first:.0%} of resamples over seeds and scenes, which "
            "describes these trainings and tests nothing."
        ]
    return [
        f"the trainings of '{best.name}' rank {best.rank:.2f} of {table.runs} on average over {over}, those "
        f"of '{second.name}', which is next, {second.rank:.2f}.",
        *first,
        _stable(table),
    ]


def _stable(table: Table) -> str:
    row = max(table.losses, key=lambda row: row.stable or 0)
    return (
        f"by random halves of the metrics of {table.verdict_set} '{row.name}' is first in {row.stable:.0%}."
    )


def _twins(table: Table) -> list[str]:
    return [
        f"'{one}' and '{other}' have the same scores to the last bit: their settings differ without effect."
        for one, other in table.twins
    ]


def _differences(table: Table) -> list[str]:
    sentences = []
    for (name, other), found in table.differences.items():
        tested = [each for each in found.values() if each.tested]
        if not tested:
            continue
        clearly, likely = (_counts(tested, word) for word in ("clearly", "likely"))
        opening = f"'{name}' against '{other}' on {_count(len(tested), 'metric')}"
        if not any((*clearly, *likely)):
            sentences.append(f"{opening}: no difference is found.")
            continue
        parts = [
            f"{word} better on {better} and worse on {worse}"
            for word, (better, worse) in (("clearly", clearly), ("likely", likely))
            if better or worse
        ]
        sentences.append(f"{opening}: {'; '.join(parts)}.")
    if sentences:
        sentences.append(
            f"clearly: t-test over seeds and scenes, Holm-corrected over {_count(table.tests, 'test')}, p < "
            "0.05; likely: by Benjamini and Hochberg's correction, so that about one in twenty of these is "
            "none."
        )
    return sentences


def _counts(tested: Sequence[Difference], word: str) -> tuple[int, int]:
    found = Counter(each.better for each in tested if each.word == word)
    return found[1], found[-1]


def _divided(table: Table) -> list[str]:
    sentences = []
    for (name, other), found in table.differences.items():
        metrics = [metric for metric, each in found.items() if each.divided and each.discovery < LEVEL]
        if metrics:
            sentences.append(
                f"on {_list(metrics)} mean and median of the difference between '{name}' and '{other}' "
                "disagree in sign: few images decide the mean, so neither is called better."
            )
    return sentences


def _power(table: Table) -> list[str]:
    if not table.tests:
        return []
    return [
        f"a difference that is not found may still exist: column '{FOUND}' holds the smallest that so many "
        "seeds and scenes show; clipfuse compare --plan computes how many seeds a smaller one needs."
    ]


def _trivial_ahead(table: Table) -> list[Row]:
    best = table.losses[0].rank
    if best is None:
        return []
    return [row for row in table.rows if row.trivial and row.rank is not None and row.rank < best]


def _trivial(table: Table) -> list[str]:
    ahead = _trivial_ahead(table)
    if not ahead:
        return []
    return [
        f"trivial fusions that rank before the best loss by {table.verdict_set}: "
        + ", ".join(f"{row.name} ({row.rank:.2f})" for row in ahead)
        + "."
    ]


def _trivially(rows: Sequence[Row]) -> str:
    best = min(rows, key=lambda row: row.rank or 0)
    return f"the trivial fusion '{best.name}'"


def _classic(table: Table) -> list[str]:
    if table.verdict_set.members or len(table.losses) == 1:
        return []
    return [
        f"{table.verdict_set} gives each usual metric a vote; copies of a band, stretched contrast and "
        "sharpening win by it, so that a good rank is no proof of a good image."
    ]


def _undefined(table: Table) -> list[str]:
    counts = [f"{column.name} ({column.left_out})" for column in table.columns if column.left_out]
    return [
        f"images left out, as a metric is not defined on them for every run: {', '.join(counts)}."
    ] * bool(counts)


def _scenes(table: Table) -> str:
    text = _count(table.scenes, "scene")
    if table.effective_scenes < 0.95 * table.scenes:
        text += f" ({table.effective_scenes:.1f} effective)"
    return text


def _families(table: Table) -> str:
    metrics = sum(len(members) for members in table.families.values())
    if not table.verdict_set.members:
        return _count(metrics, "metric")
    return f"{_count(metrics, 'metric')} in {len(table.families)} families"


def _word(number: int) -> str:
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[number] if number < len(words) else str(number)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _list(words: Sequence[str]) -> str:
    shown = list(words[:SHOWN])
    if len(words) > SHOWN:
        shown.append(f"{len(words) - SHOWN} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _quoted(rows: Sequence[Row]) -> str:
    return _list([f"'{row.name}'" for row in rows])
