import pytest
import torch

from clipfuse.networks.load import load_network
from clipfuse.ops.black import keep_black


def slow(fused: float, infrared: float, visible: float) -> float:
    """In levels of 255, pixel by pixel."""
    brighter = max(infrared, visible)
    share = (1 - brighter / 2) ** 2 if brighter < 2 else 0.0
    return fused - min(fused, 4.0) * share


def test_it_is_the_rule_pixel_by_pixel() -> None:
    generator = torch.Generator().manual_seed(0)
    fused, infrared, visible = 6 * torch.rand(3, 1, 1, 20, 30, dtype=torch.float64, generator=generator)
    kept = 255 * keep_black(fused / 255, infrared / 255, visible / 255)
    for y in range(20):
        for x in range(30):
            pixel = (plane[0, 0, y, x].item() for plane in (fused, infrared, visible))
            assert kept[0, 0, y, x].item() == pytest.approx(slow(*pixel), abs=1e-12)
    assert kept.min() >= 0


def test_8_bit_pixels_but_black_ones_lose_a_level_at_most() -> None:
    levels = torch.arange(256.0)
    infrared, visible = (plane[None, None] / 255 for plane in torch.meshgrid(levels, levels, indexing="ij"))
    for level in range(256):
        fused = torch.full_like(infrared, level / 255)
        lost = 255 * (fused - keep_black(fused, infrared, visible))
        assert lost[0, 0, 0, 0] == pytest.approx(min(level, 4), abs=1e-4)
        lost[0, 0, 0, 0] = 0
        assert lost.max() <= 1.0001
        assert lost.min() >= 0
        assert not lost[0, 0, 2:].any()


@pytest.mark.parametrize("size", [(64, 96), (33, 41), (1, 1)])
@pytest.mark.parametrize(("name", "without"), [("first", 2), ("bundled", 1)])
def test_the_networks_of_the_package_keep_black(name: str, without: float, size: tuple[int, int]) -> None:
    network = load_network(name)
    black = torch.zeros(1, 1, *size)
    with torch.no_grad():
        assert 255 * network(black, black).fused.max() < 0.5
        network.train()  # as before: trainings do not depend on it
        assert 255 * network(black, black).fused.max() > without
