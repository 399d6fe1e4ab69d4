"""The scores of all rows by metric, over the images for which all runs define the metric."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import nan

import numpy as np
from numpy.typing import NDArray

from clipfuse.comparison import statistics
from clipfuse.comparison.collect import Run
from clipfuse.comparison.statistics import Array, Spread
from clipfuse.comparison.variants import Variant
from clipfuse.metrics.protocols import Protocol
from clipfuse.ops.lpips import load_lpips


@dataclass(frozen=True)
class Scores:
    """One metric of all rows: the losses, then the trivial fusions.

    Attributes:
        name: name of the metric.
        higher_is_better: its direction.
        kept: (images of the table,), True for the images for which all runs define the metric.
        images: scores of each row, (runs, kept images); None for a row without scores.
        by_scene: means of each row over the images of each scene, (runs, scenes).
        shares: share of each scene in the kept images, (scenes,).
        present: (scenes of the table,), True for the scenes of the kept images.
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
        """`statistics.spread` of each row."""
        return [None if each is None else statistics.spread(each, self.shares) for each in self.by_scene]


def shared_images(variants: Sequence[Variant]) -> tuple[list[str], Array]:
    """Return the images that all runs have, and their scenes as `statistics.membership`."""
    runs = [run for variant in variants for run in variant.runs]
    scenes = {image: scene for run in runs for image, scene in run.scenes.items()}
    images = [image for image in runs[0].scenes if all(image in run.scenes for run in runs)]
    return images, statistics.membership([scenes[image] for image in images])


def collect(
    variants: Sequence[Variant],
    protocol: Protocol,
    name: str,
    images: Sequence[str],
    member: Array,
    trivial: Sequence[Mapping[str, Mapping[str, float]]] = (),
) -> Scores:
    """Gather the scores of a metric.

    An image for which the metric is undefined in some run is left out for all rows, so that means are over
    the same images. A row has no scores if one of its runs defines the metric for no image.

    Args:
        variants: the losses; their runs have the metric.
        protocol: the protocol of the scores.
        name: name of the metric.
        images: the images, of `shared_images`.
        member: their scenes, of `shared_images`.
        trivial: for each trivial fusion its scores, metric -> image -> score.
    """
    upwards = protocol.definition(name).higher_is_better
    return gather_scores(variants, name, upwards, images, member, trivial)


def gather_scores(
    variants: Sequence[Variant],
    name: str,
    higher_is_better: bool,
    images: Sequence[str],
    member: Array,
    trivial: Sequence[Mapping[str, Mapping[str, float]]] = (),
) -> Scores:
    """Do as `collect`, for a metric of a given direction, which no protocol here need have."""
    arrays = [
        np.array([[run.scores[name].get(image, nan) for image in images] for run in variant.runs])
        for variant in variants
    ]
    defined = [array for array in arrays if not np.isnan(array).all(axis=1).any()]
    kept = ~np.isnan(np.concatenate(defined)).any(axis=0) if defined else np.zeros(len(images), dtype=bool)
    arrays += [np.array([[found.get(name, {}).get(image, nan) for image in images]]) for found in trivial]
    shown = [
        array[:, kept] if kept.any() and not np.isnan(array[:, kept]).any() else None for array in arrays
    ]
    sizes = member[kept].sum(axis=0)
    present = sizes > 0
    return Scores(
        name,
        higher_is_better,
        kept,
        shown,
        [None if each is None else each @ member[kept][:, present] / sizes[present] for each in shown],
        sizes[present] / max(1.0, sizes.sum()),
        present,
    )


def with_lpips(protocol: Protocol, runs: Sequence[Run]) -> Protocol:
    """Return the protocol with LPIPS, by the file of a run if it is here and has not changed."""
    for run in runs:
        settings = run.config.get("metrics")
        path = settings.get("lpips_weights") if isinstance(settings, Mapping) else None
        if isinstance(path, str):
            try:
                if load_lpips(path).features.sha256 == run.config.get("lpips_sha256"):
                    return protocol.with_lpips(path)
            except (OSError, ValueError):
                continue
    return protocol.with_lpips(None)
