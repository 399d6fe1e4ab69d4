"""The scores of all runs by metric, over the images that all define."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import nan

import numpy as np
from numpy.typing import NDArray

from clipfuse.comparison import statistics
from clipfuse.comparison.statistics import Array, Spread
from clipfuse.comparison.variants import Variant
from clipfuse.metrics.protocols import Protocol


@dataclass(frozen=True)
class Scores:
    """One metric over the images that all losses define.

    Attributes:
        name: of the metric.
        higher_is_better: its direction.
        kept: which of the table's images these are.
        images: (runs, images) of each loss; None where a run defines it on none.
        by_scene: (runs, scenes) means of each.
        shares: of these scenes among these images.
        present: which of the table's scenes these are.
    """

    name: str
    higher_is_better: bool
    kept: NDArray[np.bool_]
    images: Sequence[Array | None]
    by_scene: Sequence[Array | None]
    shares: Array
    present: NDArray[np.bool_]

    @cached_property
    def spreads(self) -> list[Spread | None]:
        """Return `statistics.spread` of each loss."""
        return [None if each is None else statistics.spread(each, self.shares) for each in self.by_scene]


def shared_images(variants: Sequence[Variant]) -> tuple[list[str], Array]:
    """Return the images that all runs have, and their scenes as `statistics.membership`."""
    runs = [run for variant in variants for run in variant.runs]
    scenes = {image: scene for run in runs for image, scene in run.scenes.items()}
    images = [image for image in runs[0].scenes if all(image in run.scenes for run in runs)]
    return images, statistics.membership([scenes[image] for image in images])


def collect(
    variants: Sequence[Variant], protocol: Protocol, name: str, images: Sequence[str], member: Array
) -> Scores:
    """Gather a metric's scores.

    An image on which some run leaves the metric undefined is left out for all, so that means are over the
    same images; a loss with a run that defines it on none has no score.
    """
    arrays = [
        np.array([[run.scores[name].get(image, nan) for image in images] for run in variant.runs])
        for variant in variants
    ]
    defined = [not np.isnan(array).all(axis=1).any() for array in arrays]
    part = [array for array, here in zip(arrays, defined, strict=True) if here]
    kept = ~np.isnan(np.concatenate(part)).any(axis=0) if part else np.zeros(len(images), dtype=bool)
    sizes = member[kept].sum(axis=0)
    present = sizes > 0
    shown = [
        array[:, kept] if here and kept.any() else None for array, here in zip(arrays, defined, strict=True)
    ]
    return Scores(
        name,
        protocol.definition(name).higher_is_better,
        kept,
        shown,
        [None if each is None else scene_means(each, member[kept]) for each in shown],
        sizes[present] / max(1.0, sizes.sum()),
        present,
    )


def scene_means(scores: Array, member: Array) -> Array:
    """Return (runs, scenes) of (runs, images); scenes without images are left out."""
    sizes = member.sum(axis=0)
    return np.asarray((scores @ member[:, sizes > 0]) / sizes[sizes > 0], dtype=np.float64)
