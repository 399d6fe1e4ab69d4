"""Frames of video among numbered pictures: found by their names and by their likeness."""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

# {id: (2, n), `features` of both bands} of the ids asked for
Features = Callable[[Sequence[str]], Mapping[str, np.ndarray]]

# Rule: the highest adjusted Rand index on RoadScene's train and val scenes (0.95; by the gaps alone 0.94); of
# equal choices the one that merges more, as too many scenes make intervals falsely narrow.
LIKE = 0.2
FRAMES = 3
GAPS = 3
SAME = 0.8  # a camera that stands still


def blocks(ids: Sequence[str]) -> list[list[str]]:
    """Return runs of ids that differ only in their last number, in its order.

    A run ends where the number grows by more than three times the median step of its sequence, so that
    every second or every tenth frame of a video is a run as well. Ids without a number stand alone.
    """
    sequences: dict[tuple[str, ...], list[tuple[int, str]]] = {}
    for name in ids:
        match = re.fullmatch(r"(.*?)([0-9]+)([^0-9]*)", name, re.DOTALL)
        key, number = ((match[1], match[3]), int(match[2])) if match else ((name,), 0)
        sequences.setdefault(key, []).append((number, name))
    runs = []
    for _, members in sorted(sequences.items()):
        members.sort()
        steps = np.diff([number for number, _ in members])
        limit = GAPS * np.median(steps) if len(steps) else 0
        borders = [0, *(place for place, step in enumerate(steps, start=1) if step > limit), len(members)]
        runs += [[name for _, name in members[a:b]] for a, b in pairwise(borders)]
    return runs


def features(small: np.ndarray) -> np.ndarray:
    """Return what `likeness` compares: the logarithm of each thumbnail, with mean 0 and norm 1.

    Headlights and warm bodies then count for less than the place they are in.

    Args:
        small: (..., height, width) uint8.

    Returns:
        (..., height * width) float32; 0 where a thumbnail is flat.
    """
    flat = np.log(small.reshape(*small.shape[:-2], -1).astype(np.float64) + 8)
    flat -= flat.mean(axis=-1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=-1, keepdims=True), 1e-6)
    return flat.astype(np.float32)


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Return the correlation of two pictures' `features`, the mean of both bands, in [-1, 1]."""
    return float((one * other).sum(axis=1).mean())


def looks_like_video(
    ids: Sequence[str], features_of: Features, sure: float = 3.0, pairs: int = 50, least: int = 8
) -> bool:
    """Say whether pictures whose numbers follow each other are frames of video.

    They are if the median neighbours' likeness is above 0.8 (a camera that stands still), or if neighbours
    are more alike than pictures a third of the set apart or more, by the statistic of Mann and Whitney. Of
    pictures of RoadScene and MSRS in random order less than 1 % of sets are taken for video; of 60 frames in
    their own order, all are.

    Args:
        ids: the pictures.
        features_of: reads both bands of some of them.
        sure: how far above chance the statistic must be, in standard errors.
        pairs: greatest number of neighbours looked at, spread over the set.
        least: fewer neighbours say nothing.
    """
    runs = blocks(ids)
    neighbours = [pair for run in runs for pair in pairwise(run)]
    if len(neighbours) < least:
        return False
    chosen = np.unique(np.linspace(0, len(neighbours) - 1, min(pairs, len(neighbours))).round().astype(int))
    near = [neighbours[index] for index in chosen]
    pictures = features_of(list(dict.fromkeys(name for pair in near for name in pair)))
    alike = np.array([likeness(pictures[a], pictures[b]) for a, b in near])
    if np.median(alike) >= SAME:
        return True
    every = np.stack([pictures[first] for first, _ in near])
    apart = np.triu_indices(len(near), max(1, len(near) // 3))
    strange = np.sort(np.einsum("abn,cbn->ac", every, every, optimize=True)[apart] / 2)
    if not len(strange):
        return False
    below, up_to = (np.searchsorted(strange, alike, side) for side in ("left", "right"))
    above = (below + up_to).mean() / 2 / len(strange)
    return bool(above >= 0.5 + sure / np.sqrt(12 * len(alike)))


def find_scenes(ids: Sequence[str], features_of: Features) -> dict[str, str]:
    """Find the scenes of pictures that may be frames of video.

    Own design. Runs of numbers (`blocks`) are cut where none of the last three pictures before is like one
    of the first three after (a likeness of 0.2). Where neighbours are no more alike than any two pictures of
    the set, its numbers say nothing, and each picture is a scene of its own.

    Returns:
        The scene of each id, called by the first of its pictures.
    """
    if not looks_like_video(ids, features_of, sure=2, pairs=500, least=1):
        return {name: name for name in ids}
    pictures = features_of(ids)
    scenes = {}
    for run in blocks(ids):
        first = run[0]
        for place, name in enumerate(run):
            before, after = run[max(0, place - FRAMES) : place], run[place : place + FRAMES]
            if before and max(likeness(pictures[a], pictures[b]) for a in before for b in after) < LIKE:
                first = name
            scenes[name] = first
    return scenes
