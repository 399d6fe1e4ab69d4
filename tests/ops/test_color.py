import itertools

import kornia
import pytest
import torch

from clipfuse.ops.color import eight_bit_rgb, luma_chroma_to_rgb, rgb_to_luma_chroma
from clipfuse.ops.depth import to_bytes, to_unit


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


def chroma_grid():
    """81 x 81 pairs of Cb and Cr over the unit square, whether or not any RGB colour has them."""
    axis = torch.linspace(0, 1, 81)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"))


def slow_mapped(luma, cb, cr):
    """The colour nearest to the full one on the line from gray to it that lies in the cube."""
    full = slow_backward(luma, cb, cr)
    shares = [1.0]
    for channel in full:
        if channel > 1:
            shares.append((1 - luma) / (channel - luma))
        if channel < 0:
            shares.append(luma / (luma - channel))
    return [luma + min(shares) * (channel - luma) for channel in full]


@pytest.mark.parametrize("luma", [0.0, 0.004, 0.3, 0.5, 0.97, 1.0])
def test_a_color_out_of_gamut_pales_and_keeps_luma_and_hue(luma):
    chroma = chroma_grid()[:, ::8, ::8].double()
    plane = torch.full((1, *chroma.shape[1:]), luma, dtype=torch.float64)
    mapped = luma_chroma_to_rgb(plane, chroma)
    assert mapped.min() >= 0
    assert mapped.max() <= 1
    for y, x in itertools.product(range(11), range(11)):
        expected = slow_mapped(luma, *chroma[:, y, x].tolist())
        assert mapped[:, y, x].tolist() == pytest.approx(expected, abs=1e-12)
    kept, paled = rgb_to_luma_chroma(mapped)
    assert (kept - plane).abs().max() <= 1e-12
    turn = (paled[0] - 0.5) * (chroma[1] - 0.5) - (paled[1] - 0.5) * (chroma[0] - 0.5)
    assert turn.abs().max() <= 1e-12  # both chromas lie on one line through gray


def test_a_red_under_white_light_is_white():
    red = torch.tensor([1.0, 0.0, 0.0]).reshape(3, 1, 1)
    _, chroma = rgb_to_luma_chroma(red)
    assert luma_chroma_to_rgb(torch.ones(1, 1, 1), chroma).flatten().tolist() == pytest.approx([1, 1, 1])


def test_an_8_bit_color_has_the_level_of_a_gray_file_at_every_point_of_a_dense_grid():
    chroma = chroma_grid()
    for level in range(256):
        for part in (-0.5, 0.0, 0.49):
            luma = torch.full((1, *chroma.shape[1:]), (level + part) / 255)
            stored = to_bytes(eight_bit_rgb(luma, chroma))
            red, green, blue = stored.double()
            exact = 0.299 * red + 0.587 * green + 0.114 * blue
            gray = to_bytes(luma)
            assert (exact - gray[0]).abs().max() < 0.5
            assert (exact - 255 * luma.clamp(0, 1)[0]).abs().max() <= 0.5001
            assert torch.equal(to_bytes(rgb_to_luma_chroma(to_unit(stored))[0]), gray)


def test_colors_midway_between_levels_in_all_channels_keep_it_too():
    stored = dense_bytes()
    sums = 299 * stored[0] + 587 * stored[1] + 114 * stored[2]
    midway = stored[:, sums % 1000 == 500][:, None]  # whole lumas are between levels
    assert midway.shape[2] > 100
    _, chroma = rgb_to_luma_chroma(to_unit(midway.byte()))
    for level in range(0, 256, 5):
        luma = torch.full_like(chroma[:1], level / 255)
        back = rgb_to_luma_chroma(eight_bit_rgb(luma, chroma))[0]
        assert bool((to_bytes(back) == level).all())


@pytest.mark.parametrize("shape", [(2, 4, 4), (4, 4, 4), (4, 4)])
def test_other_channel_counts_are_refused(shape):
    with pytest.raises(ValueError, match="expected an image"):
        rgb_to_luma_chroma(torch.zeros(shape))
