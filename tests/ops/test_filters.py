"""Sobel's gradient as the losses of the literature take it."""

import torch
from kornia.filters import spatial_gradient

from clipfuse.ops.filters import sobel_magnitude


def test_equals_kornias_inside_and_has_a_border_of_zeros() -> None:
    image = torch.rand(2, 1, 9, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = sobel_magnitude(image)
    theirs = spatial_gradient(image, normalized=False).abs().sum(dim=2)
    assert ours.shape == image.shape
    assert torch.allclose(ours[..., 1:-1, 1:-1], theirs[..., 1:-1, 1:-1], rtol=0, atol=1e-12)
    flat = sobel_magnitude(torch.ones(1, 1, 4, 5))
    assert (flat[..., 1:-1, 1:-1] == 0).all()
    assert (flat[..., 0, 0], flat[..., 0, 2], flat[..., 2, 0]) == (6, 4, 4)


def test_its_largest_value_is_eight() -> None:
    """With steps along both axes at once, at a corner of a bright block."""
    image = torch.zeros(1, 1, 5, 5)
    image[..., :2, 1:], image[..., 2, 2:] = 1, 1
    assert sobel_magnitude(image).max() <= 8
    diagonal = torch.tensor([[0.0, 1, 1], [0, 0, 1], [0, 0, 0]])
    assert sobel_magnitude(diagonal[None, None])[0, 0, 1, 1] == 6
