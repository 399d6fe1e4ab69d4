"""Each kind against its formula, written out."""

import numpy as np
import pytest
import torch
from torch import Tensor

from clipfuse.data.degraded import KINDS, STRENGTHS, degrade, describe

SIZE = (120, 160)


def scene(seed: int = 0, channels: int = 3) -> Tensor:
    """Return an image of smooth hills, in [0.1, 0.9]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, channels, 8, 10), generator=generator)
    return 0.1 + 0.8 * torch.nn.functional.interpolate(coarse, SIZE, mode="bilinear")[0]


def spoiled(kind: str, strength: int, image: Tensor, name: str = "a") -> Tensor:
    """Return the changed image of the first band that a kind changes."""
    pair = degrade(kind, strength, image[:1], image, name)
    return pair[0] if "infrared" in KINDS[kind].bands else pair[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_depends_on_the_name_alone_and_leaves_the_other_band(kind: str) -> None:
    image = scene()
    before = torch.get_rng_state()
    pairs = {name: degrade(kind, 2, image[:1], image, name) for name in ("a", "b", "c", "d")}
    again = degrade(kind, 2, image[:1], image, "a")
    assert torch.equal(torch.get_rng_state(), before)
    for place, band in enumerate(("infrared", "visible")):
        planes = [pair[place] for pair in pairs.values()]
        assert torch.equal(planes[0], again[place])
        if band not in KINDS[kind].bands:
            assert planes[0] is (image if place else planes[0])
            assert torch.equal(planes[0], image if place else image[:1])
            continue
        given = image if place else image[:1]
        assert not torch.equal(planes[0], given)
        alike = all(torch.equal(planes[0], other) for other in planes[1:])
        assert alike == (kind in ("blur", "overexposed", "low_contrast"))  # nothing in these is random


@pytest.mark.parametrize("kind", KINDS)
def test_any_size_and_strength(kind: str) -> None:
    for size in ((1, 1), (3, 5), (40, 9)):
        for channels in (1, 3):
            image = torch.rand((channels, *size), generator=torch.Generator().manual_seed(1))
            for strength in STRENGTHS:
                for given, plane in zip(
                    (image[:1], image), degrade(kind, strength, image[:1], image, "a"), strict=True
                ):
                    assert plane.shape == given.shape
                    assert plane.dtype == torch.float32
                    assert plane.isfinite().all()
                    assert 0 <= float(plane.min()) <= float(plane.max()) <= 1


def test_unknown_words_are_refused() -> None:
    image = scene()
    with pytest.raises(ValueError, match=r"unknown kind 'rainy'\. Did you mean 'rain'"):
        degrade("rainy", 1, image[:1], image, "a")
    with pytest.raises(ValueError, match="the strength is 4; expected 1, 2 or 3"):
        degrade("rain", 4, image[:1], image, "a")


def test_noise_is_white_and_of_one_pattern() -> None:
    image = torch.full((1, *SIZE), 0.5)
    found = {s: spoiled("noise", s, image) - 0.5 for s in (1, 2)}
    # 19200 draws: the standard error of a spread of sigma is sigma / sqrt(38400), 0.5 %; four of them.
    assert float(found[1].std()) == pytest.approx(0.08, rel=0.02)
    assert abs(float((found[1][:, :, 1:] * found[1][:, :, :-1]).mean())) < 4 * 0.08**2 / 19200**0.5
    torch.testing.assert_close(found[2], (1.5 * found[1]).clamp(-0.5, 0.5), rtol=0, atol=1e-6)


def test_stripes_are_columns() -> None:
    image = torch.full((1, *SIZE), 0.5)
    image[:, 60:] = 0.7
    found = spoiled("stripes", 1, image)
    top, bottom = found[:, :60], found[:, 60:]
    assert torch.equal(top, top[:, :1].expand_as(top))
    offsets = top[0, 0] - 0.5
    gains = (bottom[0, 0] - top[0, 0]) / 0.2 - 1  # (0.7 a + b) - (0.5 a + b) = 0.2 a
    # 160 columns: four standard errors of a spread are 4 / sqrt(320), 22 %.
    assert float(gains.std()) == pytest.approx(0.06, rel=0.22)
    assert float((offsets - 0.5 * gains).std()) == pytest.approx(0.04, rel=0.22)


def test_blur_is_a_gaussian() -> None:
    image = torch.zeros((1, 41, 41))
    image[0, 20, 20] = 1
    for strength, sigma in zip(STRENGTHS, (1, 2, 3), strict=True):
        found = spoiled("blur", strength, image)[0]
        offsets = torch.arange(-3, 4)
        expected = torch.exp(-(offsets**2) / (2 * sigma**2))
        # OpenCV cuts a float kernel off beyond 4 sigma, and divides by its sum.
        torch.testing.assert_close(found[20, 17:24] / found[20, 20], expected, rtol=1e-4, atol=1e-5)
        assert float(found.sum()) == pytest.approx(1, abs=1e-4)


def test_low_light_is_a_share_of_the_light_with_shot_and_read_noise() -> None:
    image = torch.full((3, 400, 400), 0.8)
    light = spoiled("low_light", 1, image).double() ** 2.2
    expected = 0.8**2.2 / 4
    spread = (expected / 1000 + 0.002**2) ** 0.5
    # 480000 draws: four standard errors of the mean, and of the spread.
    assert float(light.mean()) == pytest.approx(expected, abs=4 * spread / 480000**0.5)
    assert float(light.std()) == pytest.approx(spread, rel=4 / 960000**0.5)


def test_too_much_light_whitens_a_share_of_the_pixels() -> None:
    ramp = torch.linspace(0.3, 0.6, 10000).view(1, 100, 100)
    for strength, share in zip(STRENGTHS, (0.15, 0.3, 0.5), strict=True):
        found = spoiled("overexposed", strength, ramp)
        gain = (0.6 - 0.3 * share) ** -2.2
        assert float((found == 1).float().mean()) == pytest.approx(share, abs=2e-4)
        wanted = (gain * ramp.double() ** 2.2).clamp(0, 1) ** (1 / 2.2)
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-4)
    dark = torch.full((1, 8, 8), 0.05)
    assert float(spoiled("overexposed", 1, dark).max()) == pytest.approx(0.05 * 4 ** (1 / 2.2), rel=1e-5)


def test_low_contrast_keeps_the_mean() -> None:
    image = scene()
    for strength, share in zip(STRENGTHS, (0.4, 0.3, 0.2), strict=True):
        _, found = degrade("low_contrast", strength, image[:1], image, "a")
        torch.testing.assert_close(found, image.mean() + share * (image - image.mean()), rtol=0, atol=1e-6)


def test_the_infrared_image_is_shifted_by_whole_pixels() -> None:
    image = scene()
    seen = set()
    for name in map(str, range(20)):
        found, visible = degrade("misaligned", 2, image[:1], image, name)
        assert visible is image
        inside = found[:, 8:-8, 8:-8]
        moves = [
            (down, right)
            for down, right in ((4, 0), (-4, 0), (0, 4), (0, -4))
            if torch.equal(inside, image[:1, 8 - down : 112 - down, 8 - right : 152 - right])
        ]
        assert len(moves) == 1
        seen.update(moves)
    assert len(seen) == 4


def test_haze_takes_contrast_by_distance_and_rain_draws_streaks() -> None:
    generator = torch.Generator().manual_seed(3)
    image = 0.35 + 0.1 * torch.rand((1, *SIZE), generator=generator).expand(3, -1, -1)
    last = 1.0
    for strength in STRENGTHS:
        found = spoiled("haze", strength, image)
        kept = [
            float(found[:, rows].std(1).mean() / image[:, rows].std(1).mean())
            for rows in (slice(0, 40), slice(100, 120))
        ]
        far = float(np.exp(-KINDS["haze"].at(strength)["extinction"]))
        assert kept[0] == pytest.approx(far, rel=0.2)  # patches are thicker and thinner by a tenth
        assert kept[0] < kept[1] < 1
        assert kept[0] < last
        last = kept[0]
    image = torch.full((3, 240, 320), 0.3)
    image[:, :60] = 0.8  # a sky: the airlight
    shares = []
    for strength in STRENGTHS:
        rain = spoiled("rain", strength, image)[0, 60:]
        streaks = rain > rain.median(dim=1, keepdim=True).values + 0.05
        shares.append(float(streaks.float().mean()))
        along, across = (
            (streaks[:-8, :-8] & streaks.roll(move, (0, 1))[:-8, :-8]).sum() for move in ((-8, 0), (0, -8))
        )
        assert along > 1.3 * across  # nearly upright
    assert 0.01 < shares[0] < shares[1] < shares[2] < 0.5


def test_the_record_names_protocol_and_parameters() -> None:
    assert describe("stripes", 3) == {
        "protocol": "degraded-1",
        "kind": "stripes",
        "strength": 3,
        "bands": ["infrared"],
        "parameters": {"offset": 0.11, "gain": 0.15},
    }
    assert all(len(values) == 3 for kind in KINDS.values() for values in kind.parameters.values())
