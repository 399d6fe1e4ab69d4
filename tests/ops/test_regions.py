import math

import pytest
import torch
from skimage.filters import threshold_otsu
from torch import Tensor

from clipfuse.ops.regions import (
    above_otsu,
    labelled_regions,
    local_contrast,
    region_means,
    saliency,
    split,
)
from clipfuse.types import IGNORED


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_each_class_is_a_region_and_pixels_without_one_lie_in_none() -> None:
    classes = torch.tensor([[[0, 2], [IGNORED, 2]], [[1, 1], [0, IGNORED]]])
    found = labelled_regions(classes)
    assert found.shape == (2, 3, 2, 2)
    for index in range(3):
        assert torch.equal(found[:, index], classes == index)
    assert not labelled_regions(torch.full((1, 3, 3), IGNORED)).any()
    mask = classes[:, None] == 2
    assert torch.equal(split(mask).sum(1), torch.ones(2, 2, 2))


def test_otsu_s_threshold_is_that_of_scikit_image() -> None:
    """Their threshold is the centre of the last lower bin, ours its upper edge: half of a bin apart."""
    plane = noise(3, 1, 40, 50) ** 3
    plane[1, 0, :10] += 1
    found = above_otsu(plane)
    for image, mask in zip(plane, found, strict=True):
        half = float(image.max() - image.min()) / 512
        assert torch.equal(mask, image > threshold_otsu(image.numpy()[0], 256) + half)
        assert mask.any()
        assert not mask.all()
    assert not above_otsu(torch.full((1, 1, 8, 8), 0.5)).any()


def test_saliency_and_contrast_equal_loops() -> None:
    plane = noise(2, 1, 9, 11)
    found = {"saliency": saliency(plane), "contrast": local_contrast(plane)}
    for index, y, x in [(0, 0, 0), (0, 4, 5), (1, 8, 10), (1, 0, 6)]:
        image = plane[index, 0]
        near = image[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        assert found["saliency"][index, 0, y, x].item() == pytest.approx(
            abs(float(near.mean() - image.mean()))
        )
        near = image[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4]
        assert found["contrast"][index, 0, y, x].item() == pytest.approx(float(near.std(correction=0)))
    assert local_contrast(torch.full((1, 1, 8, 8), 0.3)).max() < 1e-3


def test_means_over_regions_equal_a_loop_over_places() -> None:
    """A place of the map counts as much as the region covers of its pixels."""
    values, regions = noise(2, 4, 5), noise(2, 3, 13, 17) > 0.6
    regions[0, 1] = False
    found = region_means(values, regions)
    for n in range(2):
        for k in range(3):
            whole = weight = 0.0
            for y in range(4):
                for x in range(5):
                    rows = slice(13 * y // 4, math.ceil(13 * (y + 1) / 4))
                    columns = slice(17 * x // 5, math.ceil(17 * (x + 1) / 5))
                    share = float(regions[n, k, rows, columns].double().mean())
                    whole, weight = whole + share * float(values[n, y, x]), weight + share
            assert found[n, k].item() == pytest.approx(whole / weight if weight else 0, abs=1e-12)
