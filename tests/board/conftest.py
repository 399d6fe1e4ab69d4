"""Results of methods, drawn in no time: `entry`."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clipfuse.board.results import Entry, Pair

METRICS = {"kept-information": True, "kept-structure": True, "local-detail": True, "clean-detail": True}
EIGHT = dict.fromkeys(("EN", "SD", "SF", "AG", "SCD", "VIF", "Qabf", "SSIM"), True)


def make(
    method: str = "mine",
    level: float = 0.0,
    images: int = 24,
    scenes: int = 12,
    set: str = "road",
    first: int = 0,
    runs: int = 1,
    metrics: Mapping[str, bool] | None = None,
    **more: Any,
) -> Entry:
    """Return a method whose scores lie about `level`, the same in all metrics but for noise."""
    metrics = {**METRICS, **EIGHT, "MSE": False} if metrics is None else metrics
    names = [f"image{first + place}" for place in range(images)]
    pairs = {
        name: Pair(f"scene{place % scenes}", f"{first + place:016x}") for place, name in enumerate(names)
    }
    generator = np.random.default_rng([*map(ord, method)])
    common = np.random.default_rng(0).normal(0, 1, images)
    scores = []
    for _ in range(runs):
        values = {
            name: (level if up else -level) + common + generator.normal(0, 0.3, images)
            for name, up in metrics.items()
        }
        scores.append({name: dict(zip(names, map(float, row), strict=True)) for name, row in values.items()})
    made = Entry(method, set, "strict-2", pairs, scores, metrics, source=f"{method}.json")
    return replace(made, **{"scenes_from": "file", **more})


@pytest.fixture
def entry() -> Callable[..., Entry]:
    """Return `make`, which a test cannot import."""
    return make
