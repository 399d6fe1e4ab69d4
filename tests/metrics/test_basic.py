import math

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from clipfuse.metrics.basic import basic_metrics
from clipfuse.metrics.contrast import standard_deviation
from clipfuse.metrics.information import Entropy, entropy
from clipfuse.metrics.structure import ssim_sum

# float64 on 0..255: what is left is the order of summing some thousand pixels.
EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture
def planes() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, 1, 24, 31), generator=generator).double() for _ in range(3)]


def test_entropy_equals_a_plain_count(planes: list[Tensor]) -> None:
    fused = planes[0].clone()
    fused[1] = 7
    expected = []
    for image in fused:
        values = image.flatten().tolist()
        shares = [values.count(level) / len(values) for level in set(values)]
        expected.append(-sum(share * math.log2(share) for share in shares))
    torch.testing.assert_close(entropy(fused), torch.tensor(expected, dtype=torch.float64), **EXACT)
    assert float(entropy(fused)[1]) == 0


def test_standard_deviation_is_that_of_the_population(planes: list[Tensor]) -> None:
    image = planes[0][0].flatten()
    expected = ((image - image.sum() / len(image)) ** 2).sum().div(len(image)).sqrt()
    torch.testing.assert_close(standard_deviation(planes[0])[0], expected, **EXACT)


def test_ssim_equals_torchmetrics(planes: list[Tensor]) -> None:
    fused, infrared, visible = planes
    expected = sum(
        structural_similarity_index_measure(fused, source, data_range=255.0, reduction="none")
        for source in (infrared, visible)
    )
    torch.testing.assert_close(ssim_sum(fused, infrared, visible), expected, **EXACT)


def test_ssim_of_equal_images_is_two(planes: list[Tensor]) -> None:
    image = planes[0]
    torch.testing.assert_close(ssim_sum(image, image, image), torch.full((3,), 2.0).double(), **EXACT)
    assert bool((ssim_sum(image, image, planes[1]) < 1.5).all())


def test_ssim_names_images_that_are_too_small() -> None:
    small = torch.zeros(1, 1, 10, 40).double()
    with pytest.raises(ValueError, match="SSIM needs images of at least 11x11 px, fused is 10x40"):
        ssim_sum(small, small, small)


def test_means_weigh_images_not_batches(planes: list[Tensor]) -> None:
    fused, infrared, visible = (plane / 255 for plane in planes)
    whole, parts = basic_metrics(), basic_metrics()
    whole.update(fused, infrared, visible)
    parts.update(fused[:1], infrared[:1], visible[:1])
    parts.update(fused[1:], infrared[1:], visible[1:])
    for name, value in whole.compute().items():
        torch.testing.assert_close(parts.compute()[name], value, **EXACT)
    assert float(whole["EN"].count) == 3
    assert whole.protocol == "basic-0"


def test_scores_are_those_of_the_rounded_image() -> None:
    metric = Entropy()
    almost_flat = torch.full((1, 1, 16, 16), 0.5)
    almost_flat[..., ::2] += 0.3 / 255
    metric.update(almost_flat, almost_flat, almost_flat)
    assert float(metric.compute()) == 0
