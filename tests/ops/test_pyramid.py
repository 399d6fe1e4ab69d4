from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from clipfuse.metrics.definition import DEFINITIONS
from clipfuse.ops.pyramid import (
    base_weight,
    collapse_pyramid,
    detail_maximum,
    energy_fusion,
    laplacian_pyramid,
    pyramid_fusion,
    soften,
    warm_targets,
)

# What is tested here is the definition, on planes in 0..255; checks and rounding: test_definition.
noise_score = DEFINITIONS["noise"].kernel


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", [(64, 48), (37, 53), (9, 9), (8, 200), (5, 6)])
def test_a_pyramid_is_undone_exactly(size: tuple[int, int]) -> None:
    images = noise(2, 1, *size)
    details, base = laplacian_pyramid(images, 4)
    assert len(details) == sum(min(size) >= 4 * 2**level for level in range(4))
    # float64: a few subtractions and additions of numbers below 2
    torch.testing.assert_close(collapse_pyramid(details, base), images, rtol=0, atol=1e-14)


@pytest.mark.parametrize("fuse", [pyramid_fusion, energy_fusion])
def test_the_fusion_of_an_image_with_itself_is_the_image(fuse: Callable[[Tensor, Tensor], Tensor]) -> None:
    image = noise(1, 1, 61, 83)
    # float64: what is taken from a plane at each scale is added again
    torch.testing.assert_close(fuse(image, image), image, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("likeness", "strongest"), [(0.5, 1.35), (-0.9, 2.0)])
def test_the_energy_of_both_is_kept(likeness: float, strongest: float) -> None:
    """Against the formula, pixel by pixel; the bands are partly alike, or opposite."""
    infrared = 0.2 * noise(1, 1, 14, 18)
    visible = likeness * infrared + 0.1 * noise(1, 1, 14, 18, seed=1)
    (warm, level), (light, color) = (laplacian_pyramid(band, 1) for band in (infrared, visible))
    first, second = warm[0][0, 0].numpy(), light[0][0, 0].numpy()
    taps = np.array([1, 4, 6, 4, 1]) / 16

    def local(product: np.ndarray, row: int, column: int) -> float:
        window = np.pad(product, 2, mode="reflect")[row : row + 5, column : column + 5]
        return float(taps @ window @ taps) + (0.25 / 255) ** 2

    mixed, limit = np.empty_like(first), np.empty_like(first)
    for row, column in np.ndindex(*first.shape):
        of_first, of_second, both = (
            local(product, row, column) for product in (first**2, second**2, first * second)
        )
        total = of_first * first[row, column] + of_second * second[row, column]
        mixed[row, column] = total / (of_first + of_second)
        limit[row, column] = of_first + of_second - both**2 / max(of_first, of_second)
    gains = [min(2.0, (limit[place] / local(mixed**2, *place)) ** 0.5) for place in np.ndindex(*first.shape)]
    assert max(gains) >= strongest
    expected = torch.from_numpy(1.2 * np.reshape(gains, first.shape) * mixed)[None, None]
    fused = energy_fusion(infrared, visible, detail_gain=1.2, base_gain=1.5, levels=1)
    average = (level + color) / 2
    base = 1.5 * average - 0.5 * average.mean()
    # float64: sums of 25 products below 1
    torch.testing.assert_close(fused, collapse_pyramid([expected], base), rtol=0, atol=1e-12)


def test_mixed_details_leave_less_that_neither_band_has() -> None:
    """Of two textures as strong the greater changes from pixel to pixel, the mixture does not."""
    infrared, visible = (0.3 + 0.4 * noise(1, 1, 96, 96, seed=seed) for seed in (0, 1))
    planes = [255 * fuse(infrared, visible) for fuse in (pyramid_fusion, energy_fusion)]
    greater, mixed = (float(noise_score(plane, 255 * infrared, 255 * visible)) for plane in planes)
    assert mixed < greater / 2


def test_the_fusion_takes_the_greater_detail() -> None:
    flat = torch.full((1, 1, 64, 64), 0.5)
    stripes = flat + 0.2 * torch.tensor([1.0, -1.0]).repeat(32)
    for fused in (pyramid_fusion(flat, stripes), pyramid_fusion(stripes, flat)):
        assert float((fused - stripes).abs().max()) < 0.05
        assert float((fused - (flat + stripes) / 2).abs().mean()) > 0.08


def test_blur_is_a_sum_over_gaussian_weights() -> None:
    """Against the definition, pixel by pixel, in the middle where no border counts."""
    image, sigma = noise(2, 1, 40, 40), torch.tensor([0.05, 0.1], dtype=torch.float64)
    found = soften(image, sigma, 0.1)
    with pytest.raises(ValueError, match="several values of sigma need `widest`"):
        soften(image, sigma)
    for index in range(2):
        pixels = float(sigma[index]) * 40
        reach = torch.arange(-12, 13, dtype=torch.float64)  # three of the largest sigma, 4 px
        weights = torch.exp(-(reach**2) / (2 * pixels**2))
        weights = weights / weights.sum()
        around = image[index, 0, 8:33, 8:33]
        assert float(found[index, 0, 20, 20]) == pytest.approx(float(weights @ around @ weights), abs=1e-12)


def test_a_warm_spot_is_found_and_lifted() -> None:
    infrared, visible = torch.full((1, 1, 96, 96), 0.3), 0.2 + 0.2 * noise(1, 1, 96, 96).float()
    infrared[..., 40:52, 60:68] = 0.9
    mask = warm_targets(infrared)
    assert mask[..., 43:49, 62:66].min() > 0.9
    assert mask[..., :30, :].max() < 0.01
    fused = detail_maximum(infrared, visible)
    assert fused[..., 43:49, 62:66].mean() > 0.65
    assert fused[..., 43:49, 62:66].mean() > ((infrared + visible) / 2)[..., 43:49, 62:66].mean() + 0.05


def test_it_keeps_the_texture_of_both_bands() -> None:
    """Stripes of the infrared band above, of the visible one below."""
    stripes = 0.5 + 0.2 * torch.sin(torch.arange(96) * 1.5).expand(1, 1, 96, 96)
    upper = torch.arange(96).view(1, 1, 96, 1) < 48
    flat = torch.full_like(stripes, 0.5)
    infrared, visible = torch.where(upper, stripes, flat), torch.where(upper, flat, stripes)
    fused, average = detail_maximum(infrared, visible), (infrared + visible) / 2
    for rows in (slice(8, 40), slice(56, 88)):
        assert fused[..., rows, :].std() > 1.5 * average[..., rows, :].std()


def test_tiny_and_flat_images_are_finite() -> None:
    for side in (1, 2, 7):
        flat = torch.full((1, 1, side, side), 0.5)
        assert detail_maximum(flat, flat).isfinite().all()


def test_the_base_is_the_brighter_band_by_day_else_the_average_and_warm_where_hot() -> None:
    dark, bright = 0.2 + 0.1 * noise(1, 1, 20, 24), 0.5 + 0.1 * noise(1, 1, 20, 24)
    assert float(base_weight(dark, bright).max()) < 0.02  # by day: the visible band alone
    # 0.002: what is near to the mean is hot by sigmoid(-7.5) = 0.0005, or twice that with its texture.
    torch.testing.assert_close(base_weight(bright, dark), torch.full_like(dark, 0.5), rtol=0, atol=0.002)
    equal = base_weight(dark, dark.flip(-1))  # as often brighter as darker
    torch.testing.assert_close(equal, torch.full_like(dark, 0.5), rtol=0, atol=0.002)
    hot = dark.clone()
    hot[..., :4, :4] = 0.9  # a car that is dark to the eye, at night
    weight = base_weight(hot, dark)
    assert float(weight[..., :4, :4].min()) > 0.98
    torch.testing.assert_close(
        weight[..., 4:, 4:], torch.full_like(weight[..., 4:, 4:], 0.5), rtol=0, atol=0.01
    )
    lamp = bright.clone()
    lamp[..., :4, :4] = 0.05  # a car in the shade, warmer than its surroundings
    assert float(base_weight(dark, lamp)[..., :4, :4].min()) > 0.9
