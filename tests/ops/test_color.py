import itertools

import kornia
import pytest
import torch

from clipfuse.ops.color import luma_chroma_to_rgb, rgb_to_luma_chroma


def slow_forward(red, green, blue):
    luma = 299 / 1000 * red + 587 / 1000 * green + 114 / 1000 * blue
    return luma, (blue - luma) / 1.772 + 0.5, (red - luma) / 1.402 + 0.5


def slow_backward(luma, cb, cr):
    red = luma + 1.402 * (cr - 0.5)
    green = luma - 0.114 * 1.772 / 0.587 * (cb - 0.5) - 0.299 * 1.402 / 0.587 * (cr - 0.5)
    return red, green, luma + 1.772 * (cb - 0.5)


def dense_bytes():
    """A grid through the whole cube with its corners: 52^3 colours in steps of 5."""
    axis = torch.arange(0, 256, 5)
    return torch.cartesian_prod(axis, axis, axis).T.reshape(3, 52, -1)


def test_agrees_with_a_pixel_by_pixel_implementation_both_ways():
    image = torch.rand(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    luma, chroma = rgb_to_luma_chroma(image)
    back = luma_chroma_to_rgb(luma, chroma)
    for y, x in itertools.product(range(4), range(5)):
        expected = slow_forward(*image[:, y, x].tolist())
        assert [luma[0, y, x].item(), *chroma[:, y, x].tolist()] == pytest.approx(expected, abs=1e-14)
        assert back[:, y, x].tolist() == pytest.approx(slow_backward(*expected), abs=1e-14)


def test_round_trip_in_float64_is_exact_to_1e_12():
    image = dense_bytes().double() / 255
    assert (luma_chroma_to_rgb(*rgb_to_luma_chroma(image)) - image).abs().max() <= 1e-12


def test_round_trip_in_float32_keeps_every_byte():
    stored = dense_bytes()
    assert {0, 255} <= set(stored.unique().tolist())
    back = luma_chroma_to_rgb(*rgb_to_luma_chroma(stored.float() / 255))
    assert torch.equal((back * 255 + 0.5).floor().long(), stored)


def test_planes_of_8_bit_colours_lie_in_the_unit_range():
    luma, chroma = rgb_to_luma_chroma(dense_bytes().double() / 255)
    assert luma.min() == 0
    assert luma.max() == pytest.approx(1)
    assert chroma.min() == pytest.approx(0, abs=1e-12)
    assert chroma.max() == pytest.approx(1)


def test_luma_agrees_with_kornia():
    image = torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(1))
    luma, _ = rgb_to_luma_chroma(image)
    torch.testing.assert_close(luma, kornia.color.rgb_to_y(image), atol=1e-6, rtol=0)


def test_gray_image_is_its_own_luma_with_neutral_chroma():
    image = torch.rand(2, 1, 4, 6, generator=torch.Generator().manual_seed(2))
    luma, chroma = rgb_to_luma_chroma(image)
    assert torch.equal(luma, image)
    assert torch.equal(chroma, torch.full((2, 2, 4, 6), 0.5))
    torch.testing.assert_close(luma_chroma_to_rgb(luma, chroma), image.expand(2, 3, 4, 6))


def test_any_leading_dimensions():
    image = torch.rand(2, 5, 3, 4, 6)
    luma, chroma = rgb_to_luma_chroma(image)
    assert luma.shape == (2, 5, 1, 4, 6)
    assert chroma.shape == (2, 5, 2, 4, 6)
    torch.testing.assert_close(luma_chroma_to_rgb(luma, chroma), image)


def test_a_luma_out_of_gamut_is_clamped():
    red = torch.tensor([1.0, 0.0, 0.0]).reshape(3, 1, 1)
    _, chroma = rgb_to_luma_chroma(red)
    assert luma_chroma_to_rgb(torch.ones(1, 1, 1), chroma).flatten().tolist() == pytest.approx(
        [1, 0.701, 0.701]
    )


@pytest.mark.parametrize("shape", [(2, 4, 4), (4, 4, 4), (4, 4)])
def test_other_channel_counts_are_refused(shape):
    with pytest.raises(ValueError, match="expected an image"):
        rgb_to_luma_chroma(torch.zeros(shape))
