"""Frames of video among numbered pictures: found by their names and by their likeness."""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

# {id: (2, n) float, the thumbnails of both bands, each with mean 0 and norm 1} of the ids asked for
Thumbnails = Callable[[Sequence[str]], Mapping[str, np.ndarray]]

# Chosen on RoadScene's train and val scenes, to whose names the adjusted Rand index is highest (0.80) with
# these; of equal choices the one that merges more, as too many scenes make intervals falsely narrow.
LIKE = 0.2
FRAMES = 2
GAPS = 3
SURE = 3.0  # standard errors
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
        cuts = np.flatnonzero(steps > GAPS * np.median(steps)) + 1 if len(steps) else []
        runs += [[name for _, name in members[a:b]] for a, b in _spans(cuts, len(members))]
    return runs


def _spans(cuts: Sequence[int], count: int) -> list[tuple[int, int]]:
    return list(pairwise([0, *map(int, cuts), count]))


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Return the correlation of two pictures' thumbnails, the mean of both bands, in [-1, 1]."""
    return float((one * other).sum(axis=1).mean())


def looks_like_video(ids: Sequence[str], thumbnails: Thumbnails, pairs: int = 50, least: int = 8) -> bool:
    """Say whether pictures whose numbers follow each other are frames of video.

    They are if the median neighbours' likeness is above 0.8 (a camera that stands still), or if neighbours
    are more alike than pictures half the set apart: by Mann and Whitney's statistic, at least three standard
    errors above chance.

    Args:
        ids: the pictures.
        thumbnails: reads both bands of some of them.
        pairs: greatest number of neighbours looked at, spread over the set.
        least: fewer neighbours say nothing.
    """
    runs = blocks(ids)
    order = [name for run in runs for name in run]
    neighbours = [pair for run in runs for pair in pairwise(run)]
    if len(neighbours) < least:
        return False
    chosen = np.unique(np.linspace(0, len(neighbours) - 1, min(pairs, len(neighbours))).round().astype(int))
    near = [neighbours[index] for index in chosen]
    starts = [first for first, _ in near]
    if len(starts) == len(neighbours):  # all are looked at, so that all may be strangers
        starts = order
    half = max(1, len(starts) // 2)
    far = list(zip(starts, starts[half:], strict=False))
    pictures = thumbnails(sorted({name for pair in (*near, *far) for name in pair}))
    alike = np.array([likeness(pictures[a], pictures[b]) for a, b in near])
    strange = np.array([likeness(pictures[a], pictures[b]) for a, b in far])
    if np.median(alike) >= SAME:
        return True
    if not len(strange):
        return False
    above = (alike[:, None] > strange).mean() + (alike[:, None] == strange).mean() / 2
    error = np.sqrt((len(alike) + len(strange) + 1) / (12 * len(alike) * len(strange)))
    return bool(above >= 0.5 + SURE * error)


def find_scenes(ids: Sequence[str], thumbnails: Thumbnails) -> dict[str, str]:
    """Find the scenes of pictures that may be frames of video.

    Own design. Runs of numbers (`blocks`) are cut where none of the last two pictures before is like one of
    the first two after: a likeness of 0.2, which one of ten pairs of pictures of MSRS taken at random
    exceeds. Where neighbours are no more alike than any two pictures of the set, its numbers say nothing and
    each picture is a scene of its own.

    Returns:
        The scene of each id, called by the first of its pictures.
    """
    if not looks_like_video(ids, thumbnails, pairs=len(ids), least=1):
        return {name: name for name in ids}
    pictures = thumbnails(ids)
    scenes = {}
    for run in blocks(ids):
        first = run[0]
        for place, name in enumerate(run):
            before, after = run[max(0, place - FRAMES) : place], run[place : place + FRAMES]
            if before and max(likeness(pictures[a], pictures[b]) for a in before for b in after) < LIKE:
                first = name
            scenes[name] = first
    return scenes
