import math

import numpy as np
import pytest
import torch

from clipfuse.contourlet.filters import (
    DIRECTIONAL_FILTERS,
    PYRAMID_FILTERS,
    FilterBank,
    cosine_polynomial,
    diamond_kernel,
    maxflat_pair,
    nine_seven_pair,
)

PAIRS = {"maxflat": maxflat_pair, "9-7": nine_seven_pair}


def frequencies(count: int = 200) -> torch.Tensor:
    return 7 * torch.rand(2, count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_equal_the_published_filters(record: dict[str, np.ndarray]) -> None:
    for name, taps in zip("hg", FilterBank().pyramid_pair, strict=True):
        half = len(taps) - 1
        np.testing.assert_allclose(taps, record[f"pfilters_maxflat_{name}"][half:], rtol=0, atol=1e-15)
    for mode in ("fixed", "ref"):
        for index, taps in enumerate(FilterBank(published=mode == "ref").fan_taps()[:2]):
            quadrant = record[f"{mode}/k{index}"]
            np.testing.assert_allclose(taps[: len(quadrant), : len(quadrant)], quadrant, rtol=0, atol=1e-14)
            torch.testing.assert_close(taps, taps.flip(0), rtol=0, atol=1e-15)
            torch.testing.assert_close(taps, taps.flip(1), rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", PYRAMID_FILTERS)
def test_pyramid_pairs_are_biorthogonal_and_flat(name: str) -> None:
    cosine = torch.cos(frequencies()[0])
    h, g = PAIRS[name]()
    product = cosine_polynomial(h, cosine) * cosine_polynomial(g, cosine)
    shifted = cosine_polynomial(h, -cosine) * cosine_polynomial(g, -cosine)
    torch.testing.assert_close(product + shifted, torch.full_like(product, 2.0), rtol=0, atol=1e-14)
    one = torch.ones(1, dtype=torch.float64)
    near = -1 + 1e-4 * one  # 1 + cos w = 1e-4: each zero pair at pi is one such factor
    for taps in (h, g):
        assert float(cosine_polynomial(taps, one)) == pytest.approx(math.sqrt(2), abs=1e-14)
        factors = 2 if name == "9-7" else 1
        assert abs(float(cosine_polynomial(taps, near))) < 5 * 1e-4**factors


def test_nine_seven_taps_are_the_known_ones() -> None:
    # Antonini, Barlaud, Mathieu and Daubechies, IEEE TIP 1(2), 1992, table I, over sqrt(2).
    nine, seven = nine_seven_pair()
    assert nine == pytest.approx(
        [x * math.sqrt(2) for x in (0.602949, 0.266864, -0.078223, -0.016864, 0.026749)], abs=1e-6
    )
    assert seven == pytest.approx(
        [x * math.sqrt(2) for x in (0.557543, 0.295636, -0.028772, -0.045636)], abs=1e-6
    )


@pytest.mark.parametrize("name", DIRECTIONAL_FILTERS)
def test_fan_pairs_reconstruct_and_select(name: str) -> None:
    bank, (u, v) = FilterBank(directional=name), frequencies()
    zero, one, dual_zero, dual_one = bank.fans(u, v)
    torch.testing.assert_close(zero * dual_zero + one * dual_one, torch.full_like(u, 2.0), rtol=0, atol=1e-14)
    far_zero, far_one, _, _ = bank.fans(u + math.pi, v + math.pi)
    torch.testing.assert_close(far_zero * dual_zero, far_one * dual_one, rtol=0, atol=1e-14)  # no alias
    across = torch.tensor([0.3, math.pi / 2, 3.0], dtype=torch.float64)
    inside = bank.fans(torch.zeros(3, dtype=torch.float64), across)
    outside = bank.fans(across, torch.zeros(3, dtype=torch.float64))
    for kept, dropped in ((inside[0], outside[0]), (outside[1], inside[1])):
        assert float(kept[1]) > 1.3
        assert abs(float(dropped[1])) < 0.1


def test_diamond_kernel_is_antisymmetric_and_flat() -> None:
    u, v = frequencies()
    for order in (4, 5, 6, 7):
        kernel, opposite = diamond_kernel(order, u, v), diamond_kernel(order, u + math.pi, v + math.pi)
        torch.testing.assert_close(kernel, -opposite, rtol=0, atol=1e-14)
        near = torch.tensor(0.1, dtype=torch.float64)
        assert abs(float(diamond_kernel(order, near, near)) - 1) < 0.1**order


@pytest.mark.parametrize("published", [False, True])
def test_taps_have_the_responses(published: bool) -> None:
    bank, (u, v) = FilterBank(directional="dmaxflat5", published=published), frequencies(20)
    for taps, response in list(zip(bank.fan_taps(), bank.fans(u, v), strict=True))[:2]:
        half = len(taps) // 2
        n = torch.arange(-half, half + 1, dtype=torch.float64)
        sums = torch.einsum("fm,mn,fn->f", torch.cos(u[:, None] * n), taps, torch.cos(v[:, None] * n))
        torch.testing.assert_close(sums, response, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize(("u", "v"), [((2, -1), (1, 3)), ((1, 0), (0, 1)), ((8, -14), (-8, 30))])
def test_factors_of_the_kernel_give_the_response(u: tuple[int, int], v: tuple[int, int], dual: bool) -> None:
    bank, size = FilterBank(), (12, 100)  # shorter and longer than the filters
    w_row, w_column = (2 * math.pi / side * torch.arange(side, dtype=torch.float64) for side in size)
    left, right = bank.kernel_factors(size, u, v)
    found = bank.fan_pair(left @ right, dual)
    frequencies = [c[0] * w_row[:, None] + c[1] * w_column for c in (u, v)]
    expected = bank.fans(*frequencies)[2 * dual :][:2]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown pyramid_filter 'maxflt'.*nearest is 'maxflat'"):
        FilterBank("maxflt")
    with pytest.raises(ValueError, match=r"unknown directional_filter 'dmaxflat8'.*dmaxflat7"):
        FilterBank(directional="dmaxflat8")
