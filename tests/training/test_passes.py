"""Further passes of the network, checked against the network itself and against finite differences."""

from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from clipfuse.backbones.conv_tiny import ConvTiny
from clipfuse.testing.ranks import Ranks
from clipfuse.training.passes import FurtherPass
from clipfuse.types import FusionOutput


def network() -> nn.Module:
    torch.manual_seed(0)
    backbone = ConvTiny(width=4, depth=1)
    for parameter in backbone.parameters():  # its last layer begins at 0, which would stop all gradients
        nn.init.normal_(parameter, std=0.2)
    return backbone


def planes(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    infrared, visible = torch.rand(2, 2, 1, 9, 12, generator=generator, dtype=torch.float64).to(dtype)
    return infrared, visible


def test_it_is_the_network_itself() -> None:
    backbone, images = network(), planes()
    again = FurtherPass(backbone, "cpu")(*images)
    assert torch.equal(again.fused, backbone(*images).fused)
    ours = torch.autograd.grad(again.fused.sum(), list(backbone.parameters()))
    theirs = torch.autograd.grad(backbone(*images).fused.sum(), list(backbone.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_other_parameters_take_the_place_of_its_own_and_get_the_gradient() -> None:
    backbone, images = network().double(), planes(torch.float64)
    again = FurtherPass(backbone, "cpu")
    before = {name: value.detach().clone() for name, value in again.parameters().items()}
    own = list(again.parameters().values())
    inner = torch.autograd.grad(again(*images).fused.square().mean(), own, create_graph=True)
    rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)

    def outer(rate: Tensor) -> Tensor:
        moved = {
            name: value - rate * slope
            for (name, value), slope in zip(again.parameters().items(), inner, strict=True)
        }
        return again(*images, parameters=moved).fused.mean()

    (slope,) = torch.autograd.grad(outer(rate), rate)
    step = 1e-5  # the error of a central difference is its square
    with torch.no_grad():
        expected = (outer(rate + step) - outer(rate - step)) / (2 * step)
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-12)
    assert abs(float(slope)) > 1e-8
    for name, value in backbone.named_parameters():
        assert torch.equal(value, before[name]), name


def test_frozen_parameters_are_not_listed() -> None:
    backbone = network()
    first = next(iter(backbone.parameters())).requires_grad_(False)
    assert all(value is not first for value in FurtherPass(backbone, "cpu").parameters().values())


def test_a_teacher_has_its_own_weights_no_gradient_and_eval_mode() -> None:
    backbone = _Dropping().train()
    weights = {"scale": torch.tensor(0.25)}
    teacher = FurtherPass(backbone, "cpu", weights)
    images = planes()
    found = teacher(*images)
    assert torch.equal(found.fused, 0.25 * images[1])
    assert not found.fused.requires_grad
    assert backbone.training
    assert backbone.dropout.training
    assert teacher.parameters()["scale"] is weights["scale"]


class _Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.dropout = nn.Dropout(0.5)

    def forward(self, infrared: Tensor, visible: Tensor) -> FusionOutput:
        return FusionOutput(self.dropout(self.scale * visible))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"scales": torch.zeros(())}, r"the parameter 'scales', .* Did you mean 'scale'\?"),
        ({"scale": torch.zeros(2)}, r"the parameter scale with shape \(2,\); expected \(\)"),
    ],
)
def test_bad_parameters_are_refused(parameters: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FurtherPass(_Dropping(), "cpu")(*planes(), parameters=parameters)


def test_planes_of_two_shapes_are_refused() -> None:
    infrared, visible = planes()
    with pytest.raises(ValueError, match="expected one shape for all"):
        FurtherPass(network(), "cpu")(infrared, visible[..., 1:])


def test_the_precision_is_that_of_the_main_pass_and_its_cache_hides_no_gradient() -> None:
    backbone, images = network(), planes()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        main = backbone(*images).fused
        again = FurtherPass(backbone, "cpu")
        with torch.autocast("cpu", enabled=False):
            with torch.no_grad():
                quiet = again(*images).fused
            loud = again(*images).fused
            gradients = torch.autograd.grad(loud.sum(), list(backbone.parameters()))
    assert quiet.dtype == loud.dtype == torch.float32
    assert torch.equal(quiet, main.float())
    assert not torch.equal(loud, FurtherPass(backbone, "cpu")(*images).fused)  # as it is without autocast
    assert all(bool(each.abs().max() > 0) for each in gradients)


def test_ranks_exchange_gradients_of_all_passes_once(ranks: Ranks) -> None:
    expected = _gradients(network(), slice(0, 2))
    for found in ranks.run(_of_rank):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def _of_rank() -> Any:
    backbone = network()
    wrapped = DistributedDataParallel(backbone)
    rank = distributed.get_rank()
    return _gradients(backbone, slice(rank, rank + 1), wrapped)


def _gradients(backbone: nn.Module, samples: slice, wrapped: nn.Module | None = None) -> list[Tensor]:
    infrared, visible = (plane[samples] for plane in planes())
    fused = (wrapped or backbone)(infrared, visible).fused
    turned = FurtherPass(backbone, "cpu")(infrared.flip(-1), visible.flip(-1)).fused
    (fused.mean() + (turned.flip(-1) - fused).square().mean()).backward()
    return [parameter.grad for parameter in backbone.parameters() if parameter.grad is not None]
