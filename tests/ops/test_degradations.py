"""Measures of defects: against plain loops, and by how often they are right on images with one defect."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clipfuse.data.folder import PairedFolder
from clipfuse.data.synthetic import SyntheticPairs
from clipfuse.ops import degradations as ops
from clipfuse.ops.degradations import DEGRADATIONS, degradations

sys.path.append(str(Path(__file__).parents[2]))
from experiments.autofuse.degradations import rates, sources

KINDS = list(DEGRADATIONS)


@pytest.fixture(scope="module")
def noise() -> Tensor:
    return torch.rand(2, 1, 26, 35, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_measures_equal_plain_loops(noise: Tensor) -> None:
    """float64 sums in another order."""
    exact: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}
    for image, *found in zip(
        noise[:, 0].tolist(),
        *(getattr(ops, name)(noise).tolist() for name in ("mean_level", "rms_contrast", "blur_effect")),
        *(getattr(ops, name)(noise).tolist() for name in ("noise_level", "stripe_level", "blockiness")),
        strict=True,
    ):
        turned = [list(column) for column in zip(*image, strict=True)]
        values = [value for row in image for value in row]
        mean = sum(values) / len(values)
        spread = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
        blur, stripes, blocks = [], [], []
        for plane in (image, turned):
            lost = whole = 0.0
            for row in plane:
                soft = [
                    sum(row[min(max(place + step, 0), len(row) - 1)] for step in range(-4, 5)) / 9
                    for place in range(len(row))
                ]
                for place in range(len(row) - 1):
                    sharp = abs(row[place + 1] - row[place])
                    whole += sharp
                    lost += max(0.0, sharp - abs(soft[place + 1] - soft[place]))
            blur.append(1 - lost / whole)
            medians = []
            for above, row, below in zip(plane, plane[1:], plane[2:], strict=False):
                second = sorted(a - 2 * b + c for a, b, c in zip(above, row, below, strict=True))
                medians.append(second[(len(second) - 1) // 2])
            stripes.append((sum(value**2 for value in medians) / len(medians) / 6) ** 0.5)
            steps = [
                sum(abs(row[place + 1] - row[place]) for row in plane) / len(plane)
                for place in range(len(plane[0]) - 1)
            ]
            count = len(steps) // 8
            means = sorted(sum(steps[place + 8 * k] for k in range(count)) / count for place in range(8))
            blocks.append(means[-1] / means[3] - 1)
        haar = sorted(
            abs(image[y][x] - image[y][x + 1] - image[y + 1][x] + image[y + 1][x + 1]) / 2
            for y in range(0, 26, 2)
            for x in range(0, 34, 2)
        )
        level = haar[(len(haar) - 1) // 2] / 0.6745
        expected = [mean, spread, max(blur), level, max(stripes), min(blocks)]
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), **exact)


def test_the_noise_level_is_that_of_the_noise() -> None:
    """80,000 Haar coefficients: the median's own error is 1.2 / sqrt(80000) of the level, 0.4 %."""
    grain = torch.randn(1, 1, 566, 566, generator=torch.Generator().manual_seed(3))
    ramp = torch.linspace(0, 1, 566)
    assert float(ops.noise_level(ramp + 0.1 * grain)) == pytest.approx(0.1, rel=0.02)
    assert float(ops.noise_level(0.5 + torch.zeros_like(grain))) == 0


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (7, 5), (16, 9), (33, 130)])
def test_any_size_and_any_level_is_judged(shape: tuple[int, int]) -> None:
    if min(shape) < 2:
        with pytest.raises(ValueError, match="2 px or more"):
            degradations(torch.rand(2, 1, *shape))
        return
    for image in (torch.zeros(2, 1, *shape), torch.ones(2, 1, *shape), torch.rand(2, 1, *shape)):
        found = degradations(image.requires_grad_())
        assert found.shape == (2, len(DEGRADATIONS))
        assert found.dtype == torch.bool
    black, white = degradations(torch.zeros(1, 1, *shape)), degradations(torch.ones(1, 1, *shape))
    assert {KINDS[k] for k in black[0].nonzero()} == {"under", "low_contrast", "blur"}
    assert {KINDS[k] for k in white[0].nonzero()} == {"over", "low_contrast", "blur"}


def test_an_image_is_judged_by_itself_and_in_each_precision(noise: Tensor) -> None:
    dark = torch.cat([noise, noise * 0.1, noise * 0.1 + 0.85])
    together = degradations(dark)
    assert together.any(dim=0).sum() >= 3
    assert torch.equal(torch.cat([degradations(image[None]) for image in dark]), together)
    for kind in (torch.float32, torch.bfloat16):
        assert torch.equal(degradations(dark.to(kind))[:, :3], together[:, :3])


def test_words_are_right_on_rendered_scenes() -> None:
    """The rates of experiments/autofuse, on 12 of its scenes; each kind at our own strengths."""
    for band, images in sources(SyntheticPairs(test=12, size=128), ["test"], 12).items():
        for kind, (found, wrong, plain) in rates(images, f"rendered{band}").items():
            assert found >= 0.9, (band, kind)
            assert plain <= 0.1, (band, kind)
            # A dark image has little contrast, stripes and coarse blocks hide or imitate others.
            assert wrong <= 0.2 or kind in ("under", "over", "stripes"), (band, kind)


def test_words_are_right_on_real_pairs() -> None:
    """The four original pairs of MSRS; their infrared band is dark and flat as it is."""
    if (data := os.environ.get("CLIPFUSE_DATA")) is None:
        pytest.skip("CLIPFUSE_DATA is not set: no real pairs on this machine")
    for band, images in sources(
        PairedFolder(str(Path(data) / "msrs_original")), ["train", "val", "test"], 4
    ).items():
        for kind, (found, _, plain) in rates(images, f"msrs_original{band}").items():
            assert found == 1 or kind == "blocks", (band, kind)
            assert plain == 0 or kind in ("under", "low_contrast"), (band, kind)
