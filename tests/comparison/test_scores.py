"""The scores of all rows over the images for which every run defines the metric."""

from collections.abc import Callable
from math import nan
from pathlib import Path

import numpy as np

from clipfuse.comparison.collect import find_runs
from clipfuse.comparison.scores import collect, shared_images
from clipfuse.comparison.variants import group
from clipfuse.metrics.protocols import STRICT

Factory = Callable[..., Path]
SCENES = ["x", "x", "y", "y", "y", "z"]


def test_images_that_a_run_leaves_undefined_are_left_out_for_all_rows(sweep: Factory) -> None:
    sweep(scores={"MSE": [1, 3, 5, 7, 9, nan]}, scenes=SCENES)
    sweep("ldfusion", scores={"MSE": [2, 2, 2, 4, nan, 2]}, scenes=SCENES)
    root = sweep("clip_ratio", scores={"MSE": [nan] * 6}, scenes=SCENES)
    variants = group(find_runs([root]))
    images, member = shared_images(variants)
    fusions = [
        {"MSE": dict(zip(images, [1.0, 2, 3, 4, nan, nan], strict=True))},
        {"MSE": dict(zip(images, [nan, 2, 3, 4, 5, 6], strict=True))},
        {},
    ]
    found = collect(variants, STRICT, "MSE", images, member, fusions)
    assert not found.higher_is_better
    assert found.kept.tolist() == [True, True, True, True, False, False]
    assert found.present.tolist() == [True, True, False]
    assert found.shares.tolist() == [0.5, 0.5]
    rows = [None if row is None else row.tolist() for row in found.by_scene]
    assert rows == [[[2, 6]], [[2, 3]], None, [[1.5, 3.5]], None, None]
    spread = found.spreads[0]
    assert spread is not None
    assert spread.mean == 4


def test_only_images_that_all_runs_have_are_shared(sweep: Factory) -> None:
    sweep(images=("a", "b", "c"), scenes=("x", "y", "x"), scores={"SSIM": [1, 2, 3]})
    other = {"split_sha256": "another"}
    root = sweep("ldfusion", images=("c", "a"), scenes=("x", "x"), scores={"SSIM": [1, 2]}, options=other)
    images, member = shared_images(group(find_runs([root])))
    assert images == ["a", "c"]
    np.testing.assert_array_equal(member, [[1], [1]])
