"""Downstream results as `clipfuse downstream` would leave them, written in no time: `judge`."""

import json
from collections.abc import Callable, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipfuse.files import json_sha256

CLASSES = ("none", "car", "person", "bus")  # no image has a bus
LABELS = {
    "names": CLASSES,
    "background": 0,
    "palette": [[0, 0, 0], [64, 0, 128], [64, 64, 0], [0, 128, 192]],
    "groups": [["day", "[02468]$"], ["night", "[13579]$"]],
}
IMAGES = tuple(f"test-{index:06d}" for index in range(6))


def mean(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else nan


def slow_scores(confusions: Sequence[Any]) -> dict[str, float]:
    """mIoU of plain loops over classes, in 0..100; the reader must agree to 1e-9."""
    total = [[sum(each[i][j] for each in confusions) for j in range(4)] for i in range(4)]
    found = {}
    for place, name in enumerate(CLASSES):
        both = total[place][place]
        union = sum(total[place]) + sum(row[place] for row in total) - both
        found[f"IoU/{name}"] = 100 * both / union if union else nan
    overlaps = list(found.values())
    return {"mIoU": mean(overlaps), "mIoU_foreground": mean(overlaps[1:]), **found}


def confusion(generator: np.random.Generator, right: float) -> list[list[int]]:
    """Pixels of an image with little of the third class; `right` is the share that is found."""
    counts = np.zeros((4, 4), dtype=int)
    for truth, pixels in enumerate((3000, 300, 60)):
        pixels = int(pixels * generator.uniform(0.6, 1.4))
        hit = int(pixels * np.clip(right + generator.normal(0, 0.02), 0, 1))
        counts[truth, truth] = hit
        counts[truth, (truth + 1) % 3] = pixels - hit
    return counts.tolist()


def boxes(generator: np.random.Generator, right: float) -> dict[str, Any]:
    """Cars and persons of an image, and what is found of them."""
    corners = generator.integers(0, 60, (4, 2))
    objects = [[x, y, x + 12, y + 12, 1 + place % 2] for place, (x, y) in enumerate(corners.tolist())]
    found = [
        [x + 1, y, x2 + 1, y2, round(generator.uniform(), 3), kind]
        for x, y, x2, y2, kind in objects
        if generator.uniform() < right
    ]
    return {"objects": objects, "found": found}


def write(
    folder: Path,
    right: float = 0.7,
    seeds: Sequence[int] = (0, 1),
    task: str = "segmentation",
    protocol: str = "retrained-1",
    images: Sequence[str] = IMAGES,
    scenes: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    labels: Mapping[str, Any] | None = None,
    maps: int = 0,
) -> Path:
    """Write results of a task; `right` is how well it works, `maps` the side of the maps that are kept."""
    results = []
    for seed in seeds:
        truth = np.random.default_rng(7)  # the same objects in all folders
        generator = np.random.default_rng(
            [seed, *map(ord, str(folder.name)), *map(ord, str(folder.parent.name))]
        )
        judgements: list[dict[str, Any]] = []
        for _ in images:
            if task == "segmentation":
                counts = np.array(confusion(truth, 0.5)).sum(axis=1)
                hits = (counts * np.clip(right + generator.normal(0, 0.02, 4), 0, 1)).astype(int)
                matrix = np.diag(hits)
                for place in range(3):
                    matrix[place, (place + 1) % 3] += counts[place] - hits[place]
                judgements.append({"confusion": matrix.tolist()})
            else:
                whole = boxes(truth, 1.0)
                whole["found"] = [row for row in whole["found"] if generator.uniform() < right]
                judgements.append(whole)
        scores: dict[str, float | None] = {}
        if task == "segmentation":
            known = slow_scores([each["confusion"] for each in judgements])
            scores = {name: value if value == value else None for name, value in known.items()}
        results.append(
            {
                "protocol": protocol,
                "seed": seed,
                "key": "0",
                "settings": {"updates": 300, "input": "color", **(settings or {})},
                "train_sha256": "1",
                "test_sha256": "2",
                "seconds": 1.0,
                "scores": scores,
                "images": {
                    image: {"scene": scenes[place] if scenes else image, "judgement": judgement}
                    for place, (image, judgement) in enumerate(zip(images, judgements, strict=True))
                },
            }
        )
    path = folder / "downstream" / task / "metrics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"task": task, "labels": {**LABELS, **(labels or {})}, "results": results}))
    if maps:
        from PIL import Image

        for image in images[:2]:
            plane = np.random.default_rng(len(image)).integers(0, 4, (maps, maps)).astype(np.uint8)
            kind = json_sha256({"updates": 300, "input": "color", **(settings or {})})[:8]
            file = path.parent / "predicted" / f"{protocol}-{seeds[0]}-{kind}" / f"{image}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(plane).save(file)
    return path


@pytest.fixture(scope="session")
def judge() -> Callable[..., Path]:
    """Return `write`, which a test cannot import."""
    return write
