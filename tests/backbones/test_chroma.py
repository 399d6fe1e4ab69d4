"""Networks that learn the chroma: any size, exact start, luma as without, gradients everywhere."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from clipfuse.backbones.base import FusionBackbone
from clipfuse.backbones.chroma import ChromaHead
from clipfuse.backbones.contourlet_autoencoder import ContourletAutoencoder
from clipfuse.backbones.conv_tiny import ConvTiny
from clipfuse.backbones.ldfusion import LDFusion
from clipfuse.backbones.student import Student


def contourlet(stride: int, chroma: bool) -> FusionBackbone:
    sizes = {"dim": 8, "heads": 2, "encoder_blocks": 1, "decoder_blocks": 1, "unet_width": 4}
    return ContourletAutoencoder(**sizes, stride=stride, dense=False, chroma=chroma)


NETWORKS: dict[str, Callable[[bool], FusionBackbone]] = {
    "contourlet": lambda chroma: contourlet(1, chroma),
    "contourlet_half": lambda chroma: contourlet(2, chroma),
    "conv_tiny": lambda chroma: ConvTiny(width=4, depth=1, chroma=chroma),
    "ldfusion": lambda chroma: LDFusion(chroma=chroma),
    "student": lambda chroma: Student(width=4, chroma=chroma),
}


def make(name: str, chroma: bool = True) -> FusionBackbone:
    torch.manual_seed(0)
    return NETWORKS[name](chroma)


def planes(count: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(height * width)
    infrared, visible, blue, red = torch.rand(4, count, 1, height, width, generator=generator).unbind()
    return infrared, visible, torch.cat([blue, red], dim=1)


@pytest.mark.parametrize("name", NETWORKS)
def test_untrained_it_keeps_the_chroma_and_its_luma_is_that_of_the_network_without(name: str) -> None:
    network, without = make(name), make(name, chroma=False)
    assert (network.learns_chroma, without.learns_chroma) == (True, False)
    assert {key for key in network.state_dict() if "chroma" not in key} == without.state_dict().keys()
    infrared, visible, chroma = planes(2, 33, 46)
    output = network(infrared, visible, chroma)
    assert output.chroma is not None
    assert torch.equal(output.chroma, chroma)
    assert torch.equal(output.fused, without(infrared, visible).fused)
    assert torch.equal(output.fused, network(infrared, visible).fused)
    assert network(infrared, visible).chroma is None
    assert without(infrared, visible, chroma).chroma is None


@pytest.mark.parametrize("size", [(1, 1), (7, 18), (33, 40)])
@pytest.mark.parametrize("name", NETWORKS)
def test_any_size_and_every_layer_of_it_learns(name: str, size: tuple[int, int]) -> None:
    network = make(name)
    torch.nn.init.normal_(network.chroma_head.change.weight, std=0.5)
    chroma = planes(2, *size)[2]
    learned = network(*planes(2, *size)).chroma
    assert learned is not None
    assert learned.shape == chroma.shape
    assert 0 <= float(learned.detach().min()) <= float(learned.detach().max()) <= 1
    assert not torch.equal(learned, chroma)
    learned.square().sum().backward()
    assert all(bool(each.grad.any()) for each in network.chroma_head.parameters())


def test_it_stays_within_its_range_where_it_changes_most() -> None:
    head = ChromaHead(2, 1, width=2)
    chroma = torch.tensor([0.0, 0.25, 0.5, 1.0]).expand(1, 2, 1, 4)
    rest = (*torch.rand(3, 1, 1, 1, 4).unbind(), torch.rand(1, 2, 1, 4))
    for bias, expected in ((100.0, 1.0), (-100.0, 0.0)):
        torch.nn.init.constant_(head.change.bias, bias)
        assert head(chroma, *rest).eq(expected).all()
    # t = tanh(0.5): towards 1 by that share of the way, written out.
    torch.nn.init.constant_(head.change.bias, 0.5)
    share = torch.tanh(torch.tensor(0.5))
    torch.testing.assert_close(head(chroma, *rest), chroma + share * (1 - chroma))


def test_features_meet_the_pixels_they_lie_under() -> None:
    """A bright place in the features of a quarter of the size changes the chroma there and nowhere else."""
    torch.manual_seed(0)
    head = ChromaHead(1, 4, width=3)
    torch.nn.init.normal_(head.change.weight)
    features = torch.zeros(1, 1, 8, 8)
    features[..., 5, 2] = 4.0
    chroma, *others = torch.full((1, 2, 30, 32), 0.5), *(torch.full((1, 1, 30, 32), 0.5) for _ in range(3))
    change = (head(chroma, *others, features) - head(chroma, *others, 0 * features)).abs().amax((0, 1))
    rows, columns = change.gt(1e-6).any(1).nonzero(), change.gt(1e-6).any(0).nonzero()
    assert change[20:24, 8:12].min() > 1e-4
    # Bilinear enlargement reaches 2.5 pixels to each side, two 3x3 layers 2 more.
    assert rows.min() >= 20 - 5
    assert rows.max() <= 23 + 5
    assert columns.min() >= 8 - 5
    assert columns.max() <= 11 + 5


@pytest.mark.parametrize(
    "chroma", [torch.zeros(1, 1, 8, 8), torch.zeros(1, 2, 8, 9), torch.zeros(1, 2, 8, 8, dtype=torch.uint8)]
)
def test_what_is_no_chroma_is_refused(chroma: Tensor) -> None:
    with pytest.raises(ValueError, match=r"chroma has type .* expected Cb and Cr .* \(1, 2, 8, 8\)"):
        make("conv_tiny")(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), chroma)


def test_networks_as_released_keep_the_chroma() -> None:
    with pytest.raises(ValueError, match=r"no smooth or chroma, as published"):
        ContourletAutoencoder(faithful=True, chroma=True)
    with pytest.raises(ValueError, match=r"leave out backbone\.faithful or backbone\.chroma"):
        LDFusion(faithful=True, chroma=True)


def test_bfloat16_and_float64() -> None:
    network, given = make("contourlet_half"), planes(1, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network(*given).chroma, given[2])
    double = network.double()(*(each.double() for each in given)).chroma
    assert double is not None
    assert double.dtype == torch.float64
