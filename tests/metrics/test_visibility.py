import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, correlate, label
from torch import Tensor

from clipfuse.metrics.definition import DEFINITIONS

# What is tested here is the definition, on planes in 0..255; checks and rounding: test_definition.
noise_score, target_contrast = (DEFINITIONS["noise"].kernel, DEFINITIONS["target-contrast"].kernel)


def planes(seed: int = 0, size: tuple[int, int] = (37, 45)) -> list[Tensor]:
    """Fused, infrared, visible: noise, in 0..255."""
    generator = torch.Generator().manual_seed(seed)
    return [255 * torch.rand(1, 1, *size, dtype=torch.float64, generator=generator) for _ in range(3)]


def regions() -> Tensor:
    """Three targets: one alone, two whose rings touch the other, one at the border."""
    mask = torch.zeros(1, 1, 37, 45, dtype=torch.bool)
    mask[..., 5:9, 6:12] = True
    mask[..., 12:15, 12:20] = True
    mask[..., 30:, 40:] = True
    return mask


def test_target_contrast_equals_its_definition() -> None:
    fused, mask = planes()[0], regions()
    image, targets = fused[0, 0].numpy(), mask[0, 0].numpy()
    labels, count = label(targets, structure=np.ones((3, 3)))
    assert count == 3
    contrasts = []
    for number in range(1, count + 1):
        target = labels == number
        ring = binary_dilation(target, structure=np.ones((15, 15))) & ~targets
        contrasts.append((image[target].mean() - image[ring].mean()) / (image[ring].mean() + 16))
    ours = target_contrast(*planes(), target_mask=mask).item()
    assert ours == pytest.approx(np.mean(contrasts), rel=1e-12)


def test_target_contrast_of_a_bright_square() -> None:
    image, mask = (
        torch.full((1, 1, 40, 40), 50.0, dtype=torch.float64),
        torch.zeros(1, 1, 40, 40, dtype=torch.bool),
    )
    mask[..., 15:20, 15:20] = True
    image[mask] = 200
    sources = torch.zeros_like(image)
    bright = target_contrast(image, sources, sources, target_mask=mask).item()
    assert bright == pytest.approx(150 / 66)
    image[mask] = 50
    assert target_contrast(image, sources, sources, target_mask=mask).item() == 0


def test_target_contrast_is_not_defined_without_targets() -> None:
    fused, infrared, visible = planes()
    nothing = torch.zeros_like(fused, dtype=torch.bool)
    assert target_contrast(fused, infrared, visible, target_mask=nothing).isnan()
    assert target_contrast(fused, infrared, visible, target_mask=~nothing).isnan()  # no ring


def left_over(fused: np.ndarray, infrared: np.ndarray, visible: np.ndarray) -> float:
    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    f, i, v = (correlate(plane, kernel)[1:-1, 1:-1] for plane in (fused, infrared, visible))
    left = 0.0
    for y in range(0, f.shape[0], 8):
        for x in range(0, f.shape[1], 8):
            window = (slice(y, y + 8), slice(x, x + 8))
            sources = np.stack([i[window].ravel(), v[window].ravel()], axis=1)
            weights = np.linalg.lstsq(sources, f[window].ravel(), rcond=1e-9)[0]
            left += ((f[window].ravel() - sources @ weights) ** 2).sum()
    return left / (f**2).sum()


@pytest.mark.parametrize("size", [(37, 45), (10, 10), (42, 34)])
def test_noise_score_equals_least_squares(size: tuple[int, int]) -> None:
    triple = planes(size=size)
    # Normal equations against a singular value decomposition.
    expected = left_over(*(plane[0, 0].numpy() for plane in triple))
    assert noise_score(*triple).item() == pytest.approx(expected, rel=1e-9)


def test_noise_score_of_mixtures_and_noise() -> None:
    noise, infrared, visible = planes(size=(170, 170))
    mixture = 0.3 * infrared + 0.6 * visible
    assert noise_score(mixture, infrared, visible).item() < 1e-12
    assert noise_score(infrared, infrared, infrared).item() < 1e-12
    assert noise_score(noise, infrared, visible).item() == pytest.approx(0.955, abs=0.005)
    rising = [noise_score((1 - a) * mixture + a * noise, infrared, visible).item() for a in (0, 0.1, 0.3, 1)]
    assert rising == sorted(rising)
    flat = torch.full_like(noise, 9)
    assert noise_score(flat, infrared, visible).item() == 0
    assert noise_score(mixture, flat, visible).item() <= 1


def test_gradients() -> None:
    triple = [plane.requires_grad_() for plane in planes(size=(9, 10))]
    mask = torch.zeros(1, 1, 9, 10, dtype=torch.bool)
    mask[..., 2:4, 3:5] = True
    assert torch.autograd.gradcheck(noise_score, tuple(triple))
    assert torch.autograd.gradcheck(
        lambda fused: target_contrast(fused, *triple[1:], target_mask=mask), triple[0]
    )
    flat = torch.full_like(triple[0], 7.0).requires_grad_()
    noise_score(flat, flat, flat).sum().backward()
    assert flat.grad.isfinite().all()
