import pytest
import torch
from torch import Tensor, nn

from clipfuse.errors import UserError
from clipfuse.metrics import definition
from clipfuse.networks import apply
from clipfuse.networks.apply import apply_network
from clipfuse.types import FusionOutput

PLANES = torch.rand(2, 3, 1, 8, 9, generator=torch.Generator().manual_seed(0))


class Mean(nn.Module):
    """The mean of both planes, as a record; drops out in training; float64."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.drop = nn.Dropout(0.9)
        self.frozen = nn.Dropout(0.9).eval()

    def forward(self, infrared: Tensor, visible: Tensor) -> FusionOutput:
        assert infrared.dtype == torch.float64
        return FusionOutput(self.drop(self.scale * (infrared + visible) / 2))


def test_eval_mode_without_gradient_and_in_the_networks_precision() -> None:
    network = Mean()
    network.frozen.eval()
    fused = apply_network(network, *PLANES)
    torch.testing.assert_close(fused, PLANES.mean(0))
    assert (fused.dtype, fused.requires_grad) == (torch.float32, False)
    assert [part.training for part in (network, network.drop, network.frozen)] == [True, True, False]


def test_rounding_errors_of_the_range_are_taken_off() -> None:
    class Network(nn.Module):
        def forward(self, infrared: Tensor, visible: Tensor) -> Tensor:
            return torch.where(infrared > 0.5, 1 + 5e-6, -5e-6)

    fused = apply_network(Network(), *PLANES)
    assert set(fused.unique().tolist()) == {0.0, 1.0}
    assert apply.ROUNDING == definition.ROUNDING


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (
            lambda fused: fused[..., 1:],
            r"a\.png cannot be fused: the network returns \(3, 1, 8, 8\), expected",
        ),
        (lambda fused: [fused], "the network returns list, expected"),
        (lambda fused: fused / 0, "values that are not finite"),
        (lambda fused: 255 * fused, r"values from .* to 2.*, expected \[0, 1\]"),
        (lambda fused: fused - 0.01 - fused.min(), r"values from -0\.01 to .*, expected \[0, 1\]"),
        (lambda fused: 2 * fused - 1, r"values from -0\.9"),
        (lambda fused: fused @ fused.new_zeros(2, 2), r"a\.png cannot be fused: mm: mat1"),
    ],
)
def test_what_is_no_fused_image_is_refused(result, message: str) -> None:
    class Network(nn.Module):
        def forward(self, infrared: Tensor, visible: Tensor) -> Tensor:
            return result(infrared)

    network = Network()
    with pytest.raises(UserError, match=message):
        apply_network(network, *PLANES, "a.png")
    assert network.training
