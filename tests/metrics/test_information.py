"""EN, MI and NMI against counting by hand; what they see, and what they do not."""

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from clipfuse import metrics
from clipfuse.metrics.definition import DEFINITIONS
from clipfuse.metrics.information import histogram, joint_histogram
from clipfuse.metrics.sharing import sharing

# What is tested here is the definition, on planes in 0..255; checks and rounding: test_definition.
entropy, mutual_information, normalized_mutual_information = (
    DEFINITIONS["EN"].kernel,
    DEFINITIONS["MI"].kernel,
    DEFINITIONS["NMI"].kernel,
)

# Both sides sum at most 65536 terms of order 1 in float64, in another order.
EXACT = {"rel": 1e-12, "abs": 1e-12}


def draw(*size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, size, generator=generator).double()


def scene(shape: tuple[int, int] = (64, 80)) -> tuple[Tensor, Tensor, Tensor]:
    """Smooth sources and their rounded average."""
    rows, columns = torch.meshgrid(*(torch.linspace(0, 1, side).double() for side in shape), indexing="ij")
    infrared = 40 + 190 * torch.exp(-((rows - 0.5).square() + (columns - 0.4).square()) / 0.05)
    visible = 128 + 100 * torch.sin(9 * columns) * torch.cos(5 * rows)
    infrared, visible = infrared.round()[None, None], visible.round()[None, None]
    return ((infrared + visible) / 2).round(), infrared, visible


def noisy(plane: Tensor, deviation: float = 25) -> Tensor:
    noise = torch.randn(plane.shape, generator=torch.Generator().manual_seed(1)).double()
    return (plane + deviation * noise).round().clamp(0, 255)


def blurred(plane: Tensor) -> Tensor:
    return avg_pool2d(plane, 9, stride=1, padding=4, count_include_pad=False).round()


def bits(*planes: Tensor) -> float:
    """Joint entropy by counting."""
    pixels = list(zip(*(plane.round().flatten().tolist() for plane in planes), strict=True))
    return -sum(n / len(pixels) * math.log2(n / len(pixels)) for n in Counter(pixels).values())


def information(x: Tensor, y: Tensor) -> float:
    return bits(x) + bits(y) - bits(x, y)


@pytest.fixture(params=["noise", "scene", "constant", "black", "identical", "inverted", "pixel", "odd"])
def triple(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, Tensor]:
    fused, infrared, visible = scene()
    return {
        "noise": tuple(draw(1, 1, 32, 48, seed=seed) for seed in range(3)),
        "scene": (fused, infrared, visible),
        "constant": (torch.full_like(fused, 77), infrared, visible),
        "black": (torch.zeros_like(fused), torch.zeros_like(fused), visible),
        "identical": (visible, visible, visible),
        "inverted": (255 - visible, infrared, visible),
        "pixel": tuple(draw(1, 1, 1, 1, seed=seed) for seed in range(3)),
        "odd": tuple(draw(1, 1, 7, 131, seed=seed) for seed in range(3)),
    }[request.param]


def test_values_are_those_of_counting(triple: tuple[Tensor, Tensor, Tensor]) -> None:
    fused, infrared, visible = triple
    parts = [information(fused, source) for source in (infrared, visible)]
    assert entropy(fused).item() == pytest.approx(bits(fused), **EXACT)
    assert mutual_information(*triple).item() == pytest.approx(sum(parts), **EXACT)
    nats = mutual_information(*triple, base=math.e).item()
    assert nats == pytest.approx(sum(parts) * math.log(2), **EXACT)

    totals = [bits(fused) + bits(source) for source in (infrared, visible)]
    hossny = sum(2 * part / total for part, total in zip(parts, totals, strict=True) if total)
    assert normalized_mutual_information(*triple).item() == pytest.approx(hossny, **EXACT)
    total = bits(infrared) + bits(visible)
    of_sources = normalized_mutual_information(*triple, denominator="of_sources").item()
    assert of_sources == pytest.approx(2 * sum(parts) / total if total else 0, **EXACT)


@pytest.mark.parametrize("score", [entropy, mutual_information, normalized_mutual_information])
def test_a_batch_is_its_images(score: Callable[..., Tensor]) -> None:
    planes = [torch.cat([plane, draw(1, 1, 64, 80), torch.full_like(plane, 9)]) for plane in scene()]
    single = torch.cat([score(*(plane[i : i + 1] for plane in planes)) for i in range(3)])
    with sharing():
        batch = score(*planes)
    assert batch.shape == (3,)
    # Threads share out the 65536 terms of one image otherwise than those of three.
    torch.testing.assert_close(batch, single, rtol=EXACT["rel"], atol=EXACT["abs"])
    assert score(*(plane[:0] for plane in planes)).shape == (0,)
    narrow = score(*(plane.float() for plane in planes))
    assert narrow.dtype == torch.float32
    # Two float64 sums that differ in their last bits may round to neighbours in float32.
    torch.testing.assert_close(narrow, batch.float(), rtol=2**-23, atol=EXACT["abs"])


def test_a_joint_histogram_counts_pairs() -> None:
    x, y = torch.tensor([[0, 255, 255], [7, 7, 8]]).double().view(2, 1, 1, 1, 3)
    x, y = torch.cat([x, x.flip(3)]), torch.cat([y, y])
    table = joint_histogram(x, y).view(2, 256, 256)
    assert table.nonzero().tolist() == [[0, 0, 7], [0, 255, 7], [0, 255, 8], [1, 0, 8], [1, 255, 7]]
    assert table.sum((1, 2)).tolist() == [3, 3]


def test_grey_levels_are_rounded_halves_to_even() -> None:
    plane = torch.tensor([0.5, 1.5, 2.5, 254.5]).double().view(1, 1, 2, 2)
    assert histogram(plane)[0, [0, 2, 254]].tolist() == [1, 2, 1]


def test_identical_images_share_all_their_information() -> None:
    _, _, visible = scene()
    both = (visible, visible, visible)
    assert mutual_information(*both).item() == pytest.approx(2 * entropy(visible).item(), **EXACT)
    assert normalized_mutual_information(*both).item() == pytest.approx(2, **EXACT)
    assert normalized_mutual_information(*both, denominator="of_sources").item() == pytest.approx(2, **EXACT)


def test_a_constant_image_has_exactly_no_information() -> None:
    _, infrared, visible = scene()
    for level in (0, 77, 255):
        flat = torch.full_like(visible, level)
        assert entropy(flat).item() == 0
        assert mutual_information(flat, infrared, visible).item() == 0
        assert normalized_mutual_information(flat, flat, flat).item() == 0
        assert normalized_mutual_information(flat, flat, flat, denominator="of_sources").item() == 0


def test_information_is_blind_to_an_inversion() -> None:
    fused, infrared, visible = scene()
    for score in (mutual_information, normalized_mutual_information):
        torch.testing.assert_close(score(255 - fused, infrared, visible), score(fused, infrared, visible))


def test_noise_is_punished_by_information_and_rewarded_by_entropy() -> None:
    fused, infrared, visible = scene()
    worse = noisy(fused)
    assert mutual_information(worse, infrared, visible) < mutual_information(fused, infrared, visible)
    for kind in ("with_fused", "of_sources"):
        after = normalized_mutual_information(worse, infrared, visible, denominator=kind)
        assert after < normalized_mutual_information(fused, infrared, visible, denominator=kind)
    assert entropy(worse) > entropy(fused)
    # What entropy does see: a loss of contrast.
    assert entropy((fused / 4).round()) < entropy(fused)


def test_blur_loses_information_of_a_textured_image() -> None:
    visible = noisy(scene()[2])
    for score in (mutual_information, normalized_mutual_information):
        assert score(blurred(visible), visible, visible) < score(visible, visible, visible)


def test_log_offset() -> None:
    share = torch.tensor([0.75, 0.25]).double()
    plane = torch.tensor([3.0, 3, 3, 9]).double().view(1, 1, 2, 2)
    expected = -(share * (share + 1e-7).log2()).sum().item()
    assert entropy(plane, log_offset=1e-7).item() == pytest.approx(expected, **EXACT)
    assert entropy(plane).item() - expected == pytest.approx(2e-7 / math.log(2), rel=1e-4)


def test_ivif_zoo_adds_to_each_share_and_divides_by_the_sources(scored: Callable[..., float]) -> None:
    planes = scene()
    levels = [Counter(plane.flatten().tolist()) for plane in planes]
    shares = [count / planes[0].numel() for count in levels[0].values()]
    expected = -sum(share * math.log2(share + 1e-7) for share in shares)
    assert scored("ivif_zoo", "EN", *planes) == pytest.approx(expected, **EXACT)
    assert scored("strict", "EN", *planes) - expected > 1e-6
    shared = sum(information(planes[0], source) for source in planes[1:])
    expected = 2 * shared / (bits(planes[1]) + bits(planes[2]))
    assert scored("ivif_zoo", "NMI", *planes) == pytest.approx(expected, **EXACT)
    assert abs(scored("strict", "NMI", *planes) - expected) > 0.01


def test_kits_count_in_nats_or_join_the_brightest_levels(scored: Callable[..., float]) -> None:
    planes = scene()
    in_bits = sum(information(planes[0], source) for source in planes[1:])
    for protocol in ("strict", "ivif_zoo"):
        assert scored(protocol, "MI", *planes) == pytest.approx(in_bits, **EXACT)
    for protocol in ("cddfuse", "vifb"):
        assert scored(protocol, "MI", *planes) == pytest.approx(in_bits * math.log(2), **EXACT)
    bright = [(plane + 120).clamp_max(255) for plane in planes]
    bright = [plane - (plane == 255) * (draw(*plane.shape[2:], seed=7) % 2) for plane in bright]
    assert all({254.0, 255.0} <= set(plane.flatten().tolist()) for plane in bright)
    # As an index of 1 to 255 counts them: uint8 + 1 saturates.
    indices = [torch.tensor([min(level + 1, 255) for level in each.flatten().tolist()]) for each in bright]
    joined = sum(information(indices[0].double(), source.double()) for source in indices[1:])
    assert scored("tang", "MI", *bright) == pytest.approx(joined, **EXACT)
    assert abs(scored("strict", "MI", *bright) / joined - 1) > 1e-3


def test_a_stretch_of_8_bit_images_does_not_change_what_they_share() -> None:
    """So that the stretch of VIFB's program is no option here: it parts levels and joins none."""
    planes = [(plane / 3).round() + 20 for plane in scene()]
    wide = []
    for plane in planes:
        low, high = plane.min().item(), plane.max().item()
        wide.append(torch.floor(255 * (plane - low) / (high - low) + 0.5))
    torch.testing.assert_close(mutual_information(*wide), mutual_information(*planes), rtol=1e-12, atol=0)


def test_errors_and_definitions() -> None:
    planes = scene()
    with pytest.raises(ValueError, match="NMI: denominator is 'sum'; expected one of 'with_fused'"):
        metrics.normalized_mutual_information(*planes, denominator="sum")
    with pytest.raises(ValueError, match=r"MI: visible is None"):
        metrics.mutual_information(planes[0], planes[1], None)
    for name, most in {"EN": 8, "MI": 16, "NMI": 2}.items():
        assert DEFINITIONS[name].bounds == (0, most)
        assert DEFINITIONS[name].higher_is_better
    every = torch.arange(256).double().view(1, 1, 16, 16)
    assert entropy(every).item() == pytest.approx(8, **EXACT)
    assert mutual_information(every, every, every).item() == pytest.approx(16, **EXACT)
