from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from clipfuse.backbones.base import FusionBackbone
from clipfuse.errors import UserError
from clipfuse.networks.apply import apply_network
from clipfuse.training.scoring import ScoringModule, check_output, naming
from clipfuse.types import FusionOutput

BAND = torch.zeros(2, 1, 8, 8)


def test_an_output_that_keeps_the_contract_is_returned() -> None:
    output = FusionOutput(torch.rand(2, 1, 8, 8))
    assert check_output(output, BAND, "Net") is output


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (BAND, r"the backbone Net returned Tensor; expected a clipfuse\.types\.FusionOutput"),
        (
            FusionOutput(BAND[:1]),
            r"'fused' as torch\.float32 \(1, 1, 8, 8\); .* point \(2, 1, 8, 8\)",
        ),
        (FusionOutput(BAND.int()), r"'fused' as torch\.int32 \(2, 1, 8, 8\); expected"),
        (FusionOutput(None), r"'fused' as NoneType; expected"),  # type: ignore[arg-type]
    ],
)
def test_any_other_output_is_refused(output: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_output(output, BAND, "Net")


@pytest.mark.parametrize(
    ("refusal", "advice"),
    [
        ("SSIM: fused has values outside [0, 1]", "the network's output is broken; lower optimizer.lr"),
        ("SSIM: infrared is constant", "leave these images out"),
    ],
)
def test_the_refusal_of_a_metric_names_the_images_and_the_remedy(refusal: str, advice: str) -> None:
    with pytest.raises(UserError) as refused, naming(["a", "b"]):
        raise ValueError(refusal)
    assert str(refused.value) == f"a, b: {refusal}; {advice}"


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), naming(["a"]):
        raise KeyError("a")


class _Net(nn.Module):
    def forward(self, infrared: Tensor, visible: Tensor) -> Tensor:
        return infrared


def test_the_network_is_named_by_its_class() -> None:
    from torchmetrics import MetricCollection

    from clipfuse.training.scoring import ScoringModule

    with pytest.raises(UserError, match="the backbone _Net returned Tensor"):
        ScoringModule(_Net(), MetricCollection([]))(BAND, BAND)


class _Answers(FusionBackbone):
    """A backbone that returns what it was given to return."""

    size_multiple = 4

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def fuse(self, infrared: Tensor, visible: Tensor) -> Any:
        return self.answer(infrared)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (lambda plane: None, "NoneType"),
        (lambda plane: {"fused": plane}, "dict"),
        (lambda plane: (plane, {}), "tuple"),
        (lambda plane: FusionOutput(None), "NoneType"),  # type: ignore[arg-type]
        (lambda plane: FusionOutput(plane[:, 0]), "(1, 6, 7)"),
        (lambda plane: FusionOutput(plane.expand(-1, 3, -1, -1)), "(1, 3, 6, 7)"),
    ],
)
def test_a_backbone_without_a_fused_image_is_refused_in_training_evaluation_and_fusing(
    user_error: Any, answer: Any, found: str
) -> None:
    network, plane = _Answers(answer), torch.rand(1, 1, 6, 7)
    scored = ScoringModule(network, MetricCollection([]))
    line = user_error(scored, plane, plane)
    assert line.startswith("the backbone _Answers returned ")
    assert found in line
    assert found in user_error(apply_network, network, plane, plane, "a.png")
