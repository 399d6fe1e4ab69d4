import pytest
import torch
from torch import Tensor

from clipfuse.backbones.base import FusionBackbone
from clipfuse.backbones.conv_tiny import ConvTiny
from clipfuse.types import FusionOutput


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture
def network() -> ConvTiny:
    """A network whose last layer is not zero, as after training."""
    torch.manual_seed(0)
    network = ConvTiny(width=8, depth=2)
    torch.nn.init.normal_(network.project.weight, std=0.3)
    return network


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (17, 16), (40, 33)])
def test_any_size(network: ConvTiny, size: tuple[int, int]) -> None:
    fused = network(images(2, 1, *size), images(2, 1, *size)).fused.detach()
    assert fused.shape == (2, 1, *size)
    assert 0 < float(fused.min()) <= float(fused.max()) < 1


def test_untrained_it_is_the_plain_maximum() -> None:
    infrared, visible = (0.1 + 0.8 * images(2, 1, 7, width)[..., :9] for width in (9, 10))
    fused = ConvTiny()(infrared, visible).fused
    # float32 logit and sigmoid of values up to 0.9.
    torch.testing.assert_close(fused, infrared.maximum(visible), rtol=0, atol=1e-6)


def test_padding_repeats_the_last_row_and_column() -> None:
    class Seen(FusionBackbone):
        size_multiple = 4

        def fuse(self, infrared: Tensor, visible: Tensor) -> FusionOutput:
            self.seen = infrared
            return FusionOutput(visible)

    network, infrared, visible = Seen(), images(1, 1, 5, 6), images(1, 1, 5, 6)
    assert torch.equal(network(infrared, visible).fused, visible)
    rows, columns = [0, 1, 2, 3, 4, 4, 4, 4], [0, 1, 2, 3, 4, 5, 5, 5]
    assert torch.equal(network.seen, infrared[:, :, rows][:, :, :, columns])


def test_samples_do_not_touch_each_other(network: ConvTiny) -> None:
    infrared, visible = images(3, 1, 16, 16), images(3, 1, 16, 18)[..., :16]
    together = network(infrared, visible).fused
    alone = torch.cat([network(infrared[i : i + 1], visible[i : i + 1]).fused for i in range(3)])
    # float32: batched convolution may sum in another order.
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_every_parameter_has_a_gradient(network: ConvTiny) -> None:
    network(images(1, 1, 16, 16), images(1, 1, 16, 17)[..., :16]).fused.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())


@pytest.mark.parametrize(
    ("infrared", "visible", "message"),
    [
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), r"infrared has shape \(1, 3, 8, 8\)"),
        (torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 9), r"visible \(1, 1, 8, 9\); expected one shape"),
        (torch.zeros(1, 1, 8, 8).byte(), torch.zeros(1, 1, 8, 8), "infrared has type torch.uint8"),
        (torch.zeros(8, 8), torch.zeros(8, 8), "expected one luma plane"),
    ],
)
def test_wrong_planes_are_named(infrared: Tensor, visible: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvTiny()(infrared, visible)


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="width 0 and depth 3"):
        ConvTiny(width=0)
