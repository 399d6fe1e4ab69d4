"""Published scores beside ours, through what both have: the Laplacian pyramid on the same images.

`published.csv` holds means over the 25 TNO and 50 RoadScene pairs that the field tests on, under protocol
`cddfuse`: CDDFuse's as its paper states them, all others by one evaluator. Our images are others, and
scores of different images cannot be compared; what a method gains over a trivial fusion can, with care.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

from experiments.common import format_table

FILE = Path(__file__).with_name("published.csv")
OURS, PYRAMID = "ours", "Laplacian pyramid"


def read_published() -> dict[str, dict[str, dict[str, float]]]:
    """Return the published scores: images -> method -> metric."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in csv.DictReader(FILE.read_text().splitlines()):
        pictures, method = row.pop("pictures"), row.pop("method")
        found.setdefault(pictures, {})[method] = {name: float(value) for name, value in row.items()}
    return found


def gain(scores: Mapping[str, float], pyramid: Mapping[str, float], metrics: list[str]) -> dict[str, float]:
    """Return by how many per cent each score is above the pyramid's."""
    return {name: 100 * (scores[name] / pyramid[name] - 1) for name in metrics}


def compare_gains(ours: Mapping[str, Mapping[str, float]]) -> str:
    """Return, as a markdown table, what methods gain over the pyramid and how often `OURS` gains more.

    Args:
        ours: The scores on our images: `OURS`, `PYRAMID`, and any trivial fusion, which shows by how much
            images differ.
    """
    published = read_published()
    metrics = list(next(iter(published.values()))[PYRAMID])
    own = gain(ours[OURS], ours[PYRAMID], metrics)
    rows = []
    for pictures, methods in {"our test scenes": ours, **published}.items():
        for method in (name for name in methods if name != PYRAMID):
            gains = gain(methods[method], methods[PYRAMID], metrics)
            ahead = sum(own[name] > gains[name] for name in metrics)
            cells = (f"{gains[name]:+.0f}" for name in metrics)
            rows.append([method, pictures, *cells, "" if method == OURS else f"{ahead} of {len(metrics)}"])
    return "\n".join(format_table(["method", "images", *metrics, "ours greater"], rows))
