"""Finds frames of video among numbered images, by their names and by how alike they are."""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

# ids -> {id: `features` of both bands, (2, n)}
Features = Callable[[Sequence[str]], Mapping[str, np.ndarray]]

# The values with the highest adjusted Rand index on RoadScene's training and validation scenes: 0.95, or 0.94
# with GAPS alone. Of equal choices the one that merges more: too many scenes make intervals too narrow.
LIKE = 0.2  # least likeness of two frames of one scene
FRAMES = 3  # frames before and after a possible cut that are compared
GAPS = 3  # largest step of the numbers within a run, in median steps
SAME = 0.8  # median likeness of neighbours above which the camera stands still


def blocks(ids: Sequence[str]) -> list[list[str]]:
    """Return runs of ids that differ only in their last number, in its order.

    A run ends where the number grows by more than `GAPS` times the median step of its sequence, so that every
    second or every tenth frame of a video is one run as well. An id without a number is a run of its own.
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
    """Return the logarithm of each thumbnail, shifted to mean 0 and scaled to norm 1, for `likeness`.

    The logarithm makes headlights and warm bodies count for less than the place they are in.

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
    """Return the correlation of the `features` of two images, the mean of both bands, in [-1, 1]."""
    return float((one * other).sum(axis=1).mean())


def looks_like_video(
    ids: Sequence[str], features_of: Features, sure: float = 3.0, pairs: int = 50, least: int = 8
) -> bool:
    """Return whether images whose numbers follow each other are frames of video.

    They are if the median likeness of neighbours is at least `SAME`, or if neighbours are more alike than
    images that are at least a third of the set apart, by the statistic of Mann and Whitney. Measured on
    RoadScene and MSRS: in random order less than 1 % of the sets are taken for video, and all sets of 60
    frames in their own order.

    Args:
        ids: the images.
        features_of: returns the features of given ids.
        sure: how far above chance the statistic must be, in standard errors.
        pairs: greatest number of neighbours compared, spread over the set.
        least: with fewer neighbours than this the answer is False.
    """
    runs = blocks(ids)
    neighbours = [pair for run in runs for pair in pairwise(run)]
    if len(neighbours) < least:
        return False
    chosen = np.unique(np.linspace(0, len(neighbours) - 1, min(pairs, len(neighbours))).round().astype(int))
    near = [neighbours[index] for index in chosen]
    known = features_of(list(dict.fromkeys(name for pair in near for name in pair)))
    alike = np.array([likeness(known[a], known[b]) for a, b in near])
    if np.median(alike) >= SAME:
        return True
    every = np.stack([known[first] for first, _ in near])
    apart = np.triu_indices(len(near), max(1, len(near) // 3))
    strange = np.sort(np.einsum("abn,cbn->ac", every, every, optimize=True)[apart] / 2)
    if not len(strange):
        return False
    alike, strange = (
        alike.round(6),
        strange.round(6),
    )  # equal pairs are equal, whatever order a machine sums in
    below, up_to = (np.searchsorted(strange, alike, side) for side in ("left", "right"))
    above = (below + up_to).mean() / 2 / len(strange)
    return bool(above >= 0.5 + sure / np.sqrt(12 * len(alike)))


def find_scenes(ids: Sequence[str], features_of: Features) -> dict[str, str]:
    """Find the scenes of images that may be frames of video.

    Own design. A run of numbers (`blocks`) is cut where none of the last three images before the cut has a
    likeness of 0.2 or more with one of the first three after it. Where neighbours are no more alike than any
    two images of the set, the numbers carry no information, and each image is a scene of its own.

    Returns:
        The scene of each id, named by the first of its images.
    """
    if not looks_like_video(ids, features_of, sure=2, pairs=500, least=1):
        return {name: name for name in ids}
    known = features_of(ids)
    scenes = {}
    for run in blocks(ids):
        first = run[0]
        for place, name in enumerate(run):
            before, after = run[max(0, place - FRAMES) : place], run[place : place + FRAMES]
            if before and max(likeness(known[a], known[b]) for a in before for b in after) < LIKE:
                first = name
            scenes[name] = first
    return scenes
