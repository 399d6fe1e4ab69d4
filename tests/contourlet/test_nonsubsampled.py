from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from clipfuse.contourlet import ContourletCoefficients, ContourletTransform, NonsubsampledContourlet

Flat = Callable[[ContourletCoefficients], list[Tensor]]


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_a_shifted_image_has_shifted_bands(flat: Flat) -> None:
    transform, image = NonsubsampledContourlet((0, 3, 2)), noise(1, 2, 37, 50)
    shifted = flat(transform(image.roll((3, -5), (2, 3))))
    for band, other in zip(flat(transform(image)), shifted, strict=True):
        assert band.shape == image.shape
        torch.testing.assert_close(other, band.roll((3, -5), (2, 3)), rtol=0, atol=1e-13)
        assert float(band.abs().max()) > 1e-3


def test_bands_keep_the_units_of_the_image(flat: Flat) -> None:
    lowpass, *details = flat(NonsubsampledContourlet()(torch.full((1, 1, 40, 40), 0.7, dtype=torch.float64)))
    torch.testing.assert_close(lowpass, torch.full_like(lowpass, 0.7), rtol=0, atol=1e-14)
    assert max(float(band.abs().max()) for band in details) < 1e-14
    image = noise(1, 1, 64, 64)
    energy = sum(float(band.square().sum()) for band in flat(NonsubsampledContourlet((3, 3))(image)))
    assert energy == pytest.approx(float(image.square().sum()), rel=0.25)


def test_a_wedge_sees_the_directions_of_its_decimated_namesake() -> None:
    """Energies of all wedges of stripes rank alike in both transforms."""
    rows, columns = torch.meshgrid(*[torch.arange(96, dtype=torch.float64)] * 2, indexing="ij")
    for x, y in ((34, 4), (34, -12), (30, 22), (-10, 34), (25, 32)):
        stripes = torch.cos(2 * torch.pi / 96 * (x * columns + y * rows))[None, None]
        found, expected = (
            torch.stack([band.square().sum() for band in transform(stripes).details[0]]).argmax()
            for transform in (NonsubsampledContourlet((3,)), ContourletTransform((3,)))
        )
        assert found == expected


def test_a_coarse_level_is_the_fine_one_spread_out() -> None:
    """Zeros between the pixels double all frequencies: what level 2 then sees, level 1 saw before."""
    image = noise(1, 1, 24, 30)

    def spread(plane: Tensor) -> Tensor:
        wide = plane.new_zeros(1, 1, 48, 60)
        wide[..., ::2, ::2] = plane
        return wide

    coarse = NonsubsampledContourlet((3, 1))(spread(image)).details[0]
    for band, fine in zip(coarse, NonsubsampledContourlet((3,))(image).details[0], strict=True):
        smoothed = NonsubsampledContourlet((1,))(spread(fine)).lowpass
        torch.testing.assert_close(band, smoothed, rtol=0, atol=1e-13)


def test_gradients(flat: Flat) -> None:
    transform, image = NonsubsampledContourlet((0, 2)), noise(1, 2, 9, 10).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tuple(flat(transform(x))), image, fast_mode=True)
    assert torch.autograd.gradcheck(lambda x: transform.inverse(transform(x)).square(), image, fast_mode=True)


def test_bad_inputs_are_named() -> None:
    with pytest.raises(ValueError, match="7x30; these levels need 8x8"):
        NonsubsampledContourlet((3, 3, 3))(noise(1, 1, 7, 30))
    with pytest.raises(ValueError, match="expected tree depths"):
        NonsubsampledContourlet((9,))
