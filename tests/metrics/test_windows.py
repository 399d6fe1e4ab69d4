"""The window filter against conv2d, and its gradient."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from clipfuse.metrics.windows import filter_valid, gaussian_taps, uniform_taps

# Sums of at most 81 products of numbers below 255.
ROUNDING = {"rtol": 1e-13, "atol": 1e-12}


def reference(plane: Tensor, down: tuple[float, ...], across: tuple[float, ...], stride: int) -> Tensor:
    weight = torch.outer(*(torch.tensor(taps, dtype=plane.dtype) for taps in (down, across)))
    filtered = conv2d(plane.flatten(0, 1)[:, None], weight[None, None], stride=stride)
    return filtered.reshape(*plane.shape[:2], *filtered.shape[2:])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(9, 9), (40, 31), (56, 57), (75, 80)])
def test_it_is_the_correlation_inside_the_plane(height: int, width: int, stride: int) -> None:
    generator = torch.Generator().manual_seed(height)
    plane = torch.rand(2, 3, height, width, dtype=torch.float64, generator=generator) * 255
    down, across = (tuple(torch.rand(count, generator=generator).tolist()) for count in (9, 3))
    plane.requires_grad_()
    expected = reference(plane, down, across, stride)
    filtered = filter_valid(plane, down, across, stride=stride)
    torch.testing.assert_close(filtered, expected, **ROUNDING)
    assert filtered.is_contiguous()
    gradient = torch.rand(expected.shape, dtype=torch.float64, generator=generator)
    ours, plain = (torch.autograd.grad(result, plane, gradient)[0] for result in (filtered, expected))
    torch.testing.assert_close(ours, plain, **ROUNDING)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_gradients(stride: int) -> None:
    plane = torch.rand(1, 1, 9, 8, dtype=torch.float64, requires_grad=True)

    def energy(plane: Tensor) -> Tensor:
        return filter_valid(plane, (0.2, 0.5, 0.3), (1.0, -2.0), stride=stride).square()

    assert torch.autograd.gradgradcheck(energy, plane)


def test_it_serves_a_backward_pass_after_inference() -> None:
    taps = gaussian_taps(5, 1.25)
    plane = torch.rand(1, 1, 9, 9)
    with torch.inference_mode():
        filter_valid(plane, taps)
    filter_valid(plane.requires_grad_(), taps).sum().backward()
    assert plane.grad is not None


def test_taps_sum_to_one() -> None:
    assert sum(uniform_taps(7)) == pytest.approx(1, rel=1e-15)
    assert sum(gaussian_taps(17, 3.4)) == pytest.approx(1, rel=1e-15)
    assert gaussian_taps(17, 3.4)[8] == max(gaussian_taps(17, 3.4))
    shifted = gaussian_taps(17, 3.4, first=-9.0, step=17 / 16)
    assert max(shifted) == max(shifted[8:10])
    assert sum(shifted) == pytest.approx(1, rel=1e-15)
