import pytest
import torch
from torch import Tensor, nn

from clipfuse.errors import UserError
from clipfuse.metrics import definition
from clipfuse.networks import apply
from clipfuse.networks.apply import apply_in_color, apply_network
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


CHROMA = torch.rand(3, 2, 8, 9, generator=torch.Generator().manual_seed(1))


class InColor(Mean):
    """Moves the chroma, too, by a factor."""

    learns_chroma = True
    factor = 0.5

    def forward(self, infrared: Tensor, visible: Tensor, chroma: Tensor | None = None) -> FusionOutput:
        assert chroma is None or chroma.dtype == torch.float64
        return FusionOutput(
            super().forward(infrared, visible).fused, chroma=None if chroma is None else self.factor * chroma
        )


def test_the_chroma_is_that_of_the_network_or_the_given_one() -> None:
    fused, chroma = apply_in_color(Mean(), *PLANES, CHROMA)
    assert torch.equal(fused, apply_network(Mean(), *PLANES))
    assert chroma is CHROMA
    fused, chroma = apply_in_color(InColor(), *PLANES, CHROMA)
    assert torch.equal(fused, apply_network(InColor(), *PLANES))
    torch.testing.assert_close(chroma, CHROMA / 2)
    assert (chroma.dtype, chroma.requires_grad) == (torch.float32, False)


def test_a_chroma_out_of_range_is_refused() -> None:
    network = InColor()
    network.factor = 2.0
    with pytest.raises(
        UserError, match=r"a\.png cannot be fused: the network returns values from .* to 1\.9"
    ):
        apply_in_color(network, *PLANES, CHROMA, "a.png")
    network.forward = lambda *planes: FusionOutput(planes[0], chroma=planes[2][..., 1:])
    with pytest.raises(UserError, match=r"returns \(3, 2, 8, 8\), expected \(3, 2, 8, 9\)"):
        apply_in_color(network, *PLANES, CHROMA, "a.png")
