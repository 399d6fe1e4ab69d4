"""The documented form of what `clipfuse score --json` writes, and the content of its files.

A file holds the scores of each image, not means alone, with the scene and a digest of each pair: intervals
over scenes are computed from it, and methods that were measured on different images are told apart from
others. Own design; docs/leaderboard.md describes each key.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isclose, isfinite
from statistics import fmean
from typing import Any

FORMAT, VERSION = "clipfuse-score", 1
_DIGITS = 6  # of scores in a file
EQUAL = 1e-4  # relative, of stated means and of the same fusion in two files; scores have six digits


@dataclass(frozen=True)
class Degradation:
    """How the pairs were degraded from which the images were fused.

    Attributes:
        protocol: such as "degraded-1".
        kind: such as "noise".
        strength: 1 and more.
        against: the sources of the scores: "clean" or "degraded".
    """

    protocol: str
    kind: str
    strength: int
    against: str = "degraded"

    def __str__(self) -> str:
        """Return it in words."""
        scored = "clean" if self.against == "clean" else "degraded"
        return f"{self.kind} {self.strength} ({self.protocol}, scored against the {scored} pairs)"


@dataclass(frozen=True)
class About:
    """What is known of a method beside its scores; None of what is not.

    Attributes:
        parameters: of its network.
        seconds: per image.
        device: on which these seconds were measured.
    """

    parameters: int | None = None
    seconds: float | None = None
    device: str | None = None


@dataclass(frozen=True)
class Pair:
    """An image that was scored: its scene, a digest of its sources, and one of its mask."""

    scene: str
    pair: str
    mask: str | None = None


@dataclass(frozen=True)
class Entry:
    """One method on one set under one protocol.

    Attributes:
        method: its name; trivial fusions begin with "trivial:".
        set: name of the data set; of degraded pairs that of the clean ones.
        protocol: such as "strict-2".
        pairs: image -> what is known of it.
        runs: of each run of the method metric -> image -> score, NaN where undefined; one run unless trained.
        metrics: metric -> whether higher is better.
        about: size and time.
        degradation: of the sources.
        source: the file or folder, for messages.
        scenes_from: where the scenes are from, "names" where each image counts as one.
    """

    method: str
    set: str
    protocol: str
    pairs: Mapping[str, Pair]
    runs: Sequence[Mapping[str, Mapping[str, float]]]
    metrics: Mapping[str, bool]
    about: About = field(default_factory=About)
    degradation: Degradation | None = None
    source: str = ""
    scenes_from: str = "names"

    @property
    def trivial(self) -> bool:
        """Whether it takes no method."""
        return self.method.startswith("trivial:")


def to_record(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return the content of a file of results, of methods that were scored together; all have one run.

    Means are in full precision, scores have six digits, of which intervals and ranks are computed.
    """
    first = entries[0]
    scores = {each.method: each.runs[0] for each in entries}
    undefined = {
        method: counts
        for method, metrics in scores.items()
        if (counts := {name: n for name, each in metrics.items() if (n := _undefined(each))})
    }
    about = {each.method: _known(each.about) for each in entries}
    return {
        "format": FORMAT,
        "version": VERSION,
        "set": first.set,
        "protocol": first.protocol,
        "images": len(first.pairs),
        "degradation": None if first.degradation is None else vars(first.degradation),
        "metrics": {name: "higher" if up else "lower" for name, up in first.metrics.items()},
        "methods": {
            method: {name: mean_of(each) for name, each in metrics.items()}
            for method, metrics in scores.items()
        },
        "undefined": undefined,
        "about": {method: known for method, known in about.items() if known},
        "scenes_from": first.scenes_from,
        "pairs": {name: _known(pair) for name, pair in first.pairs.items()},
        "scores": {
            method: {name: [_short(each[image]) for image in first.pairs] for name, each in metrics.items()}
            for method, metrics in scores.items()
        },
    }


def _known(node: About | Pair) -> dict[str, Any]:
    return {key: value for key, value in vars(node).items() if value is not None}


def _undefined(scores: Mapping[str, float]) -> int:
    return sum(not isfinite(score) for score in scores.values())


def mean_of(scores: Mapping[str, float]) -> float | None:
    """Return the mean of the finite scores of images; None where there are none."""
    defined = [score for score in scores.values() if isfinite(score)]
    return fmean(defined) if defined else None


def _short(score: float) -> float | None:
    return float(f"{score:.{_DIGITS}g}") if isfinite(score) else None


def file_name(entry: Entry) -> str:
    """Return the name of an entry's own file, such as "mine@roadscene.json"."""
    parts = [entry.method, "@", entry.set]
    if entry.degradation is not None:
        each = entry.degradation
        parts += ["@", f"{each.kind}-{each.strength}{'-clean' if each.against == 'clean' else ''}"]
    if not entry.protocol.startswith("strict-"):
        parts += ["@", entry.protocol]
    return "".join(re.sub(r"[^\w.+-]+", "-", part) if part != "@" else part for part in parts)[:200] + ".json"


def same_scores(one: Entry, other: Entry) -> bool:
    """Whether two entries of one fusion have the same scores but for their rounding, where both have them."""
    first, second = one.runs[0], other.runs[0]
    return all(
        isclose(score, second[name][image], rel_tol=EQUAL, abs_tol=1e-6)
        or (not isfinite(score) and not isfinite(second[name][image]))
        for name in first.keys() & second.keys()
        for image, score in first[name].items()
        if image in second[name]
    )


def digest(*images: Any) -> str:
    """Return 16 hex digits of the SHA-256 of images, each a tensor (C, H, W) uint8: sizes and values.

    A gray image stored in three equal channels has the digest of the gray one.
    """
    found = hashlib.sha256()
    for image in images:
        plane = image[:1] if bool((image == image[:1]).all()) else image
        found.update(str(tuple(plane.shape)).encode())
        found.update(plane.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
