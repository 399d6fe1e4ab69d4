"""What is the same in results of several people: images by their digests, and metrics by their direction."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from clipfuse.board.results import Entry, Pair

MOST = 3  # names in a sentence


def with_one_name(entries: Sequence[Entry]) -> list[Entry]:
    """Give images of one digest one name, where results of a set have the same images under other names.

    Args:
        entries: the results; of those of the same images the first gives the names. Images that one result
            has several times are matched in the order of their names.

    Returns:
        The results in the same order, each with its images in the same order.
    """
    first: dict[tuple[str, ...], list[str]] = {}
    found = []
    for entry in entries:
        order = sorted(entry.pairs, key=lambda name: (entry.pairs[name].pair, name))
        names = first.setdefault((entry.set, *(entry.pairs[name].pair for name in order)), order)
        new = dict(zip(order, names, strict=True))
        runs = [
            {metric: {new[name]: score for name, score in scores.items()} for metric, scores in run.items()}
            for run in entry.runs
        ]
        pairs = {new[name]: pair for name, pair in entry.pairs.items()}
        found.append(entry if order == names else replace(entry, pairs=pairs, runs=runs))
    return found


def counted_once(pairs: Mapping[str, Pair]) -> tuple[dict[str, Pair], str | None]:
    """Give images that are copies of another one its scene, so that they are no samples of their own.

    Args:
        pairs: the images of a set.

    Returns:
        The same images, and a sentence that names the copies, if there are any.
    """
    first: dict[str, str] = {}
    for name in sorted(pairs):
        first.setdefault(pairs[name].pair, name)
    found = {name: replace(pair, scene=pairs[first[pair.pair]].scene) for name, pair in pairs.items()}
    copies = [f"'{name}' of '{first[pair.pair]}'" for name, pair in pairs.items() if first[pair.pair] != name]
    if not copies:
        return found, None
    shown = ", ".join(copies[:MOST]) + (f" and {len(copies) - MOST} more" if len(copies) > MOST else "")
    count = "1 image is a copy" if len(copies) == 1 else f"{len(copies)} images are copies"
    return found, f"{count} of another one under its own name, and counts to the scene of that: {shown}."


def with_one_direction(entries: Sequence[Entry]) -> tuple[list[Entry], dict[tuple[str, str], list[str]]]:
    """Leave metrics out of a set's results by a protocol where they state opposite directions of them.

    Returns:
        The results in the same order, and by protocol and set a sentence for each metric that is left out.
    """
    stated: dict[tuple[str, str], dict[str, dict[bool, str]]] = {}
    for entry in entries:
        metrics = stated.setdefault((entry.protocol, entry.set), {})
        for name, up in entry.metrics.items():
            metrics.setdefault(name, {}).setdefault(up, entry.source)
    unlike = {
        key: {name: ways for name, ways in metrics.items() if len(ways) > 1}
        for key, metrics in stated.items()
    }
    notes = {
        key: [
            f"Left out: the metric {name!r}: higher is better by {ways[True]}, lower is better by "
            f"{ways[False]}; score again with one definition, or rename one."
            for name, ways in metrics.items()
        ]
        for key, metrics in unlike.items()
    }
    return [_without(each, unlike[each.protocol, each.set]) for each in entries], notes


def _without(entry: Entry, names: Mapping[str, object]) -> Entry:
    if not names:
        return entry
    runs = [{name: scores for name, scores in run.items() if name not in names} for run in entry.runs]
    return replace(entry, runs=runs, metrics={n: up for n, up in entry.metrics.items() if n not in names})
