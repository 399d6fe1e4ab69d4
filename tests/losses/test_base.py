"""A loss outside of a training: called with three images."""

import pytest
import torch
from torch import Tensor

from clipfuse.clip import load_clip
from clipfuse.losses import ClipRatioLoss, FusionLoss, LDFusionLoss, PixelLoss, PromptFusionLoss
from clipfuse.losses.weighted_sum import weighted_sum
from clipfuse.testing import example_inputs
from clipfuse.types import LossInputs

PAIRS = {"targets": {"positive": "a clear target", "negative": "a fuzzy target", "against": ["visible"]}}
LOSSES = {
    "pixel": PixelLoss,
    "clip_ratio": lambda: ClipRatioLoss(load_clip("micro")),
    "ldfusion": lambda: LDFusionLoss(load_clip("micro")),
    "promptfusion": lambda: PromptFusionLoss(load_clip("micro"), PixelLoss(), PAIRS, warmup=0),
    "weighted_sum": lambda: weighted_sum({"pixel": 2.0}, {"pixel": PixelLoss()}),
}


def images() -> tuple[Tensor, Tensor, Tensor]:
    inputs = example_inputs(count=2)
    return inputs.fused, inputs.infrared, inputs.visible


@pytest.mark.parametrize("name", LOSSES)
def test_three_images_are_enough_for_every_loss(name: str) -> None:
    loss: FusionLoss = LOSSES[name]()
    fused, infrared, visible = images()
    output = loss(fused, infrared, visible)
    assert torch.equal(output.total, loss(LossInputs(fused, infrared, visible)).total)
    (gradient,) = torch.autograd.grad(output.total, fused)
    assert gradient.flatten(1).abs().amax(dim=1).min() > 0


def test_further_fields_follow_by_name() -> None:
    loss = LOSSES["promptfusion"]()
    loss.warmup = 10  # until then the fidelity alone
    early, late = (loss(*images(), step=step).total for step in (0, 10))
    assert torch.equal(early, PixelLoss()(*images()).total)
    assert not torch.equal(late, early)


def test_what_is_not_given_is_gray_and_numbered() -> None:
    inputs = LossInputs(*images())
    assert inputs.chroma.shape == (2, 2, 48, 48)
    assert inputs.chroma.eq(0.5).all()
    assert inputs.sample_ids == ("0", "1")
    assert (inputs.step, inputs.seed, dict(inputs.features)) == (0, 0, {})
    assert inputs.target_mask is None


def test_other_arguments_are_refused() -> None:
    fused, infrared, visible = images()
    loss = PixelLoss()
    with pytest.raises(ValueError, match="visible is NoneType; expected a tensor"):
        loss(fused, infrared)
    with pytest.raises(ValueError, match=r"infrared has shape \(2, 48, 48\); expected one luma plane"):
        loss(fused, infrared[:, 0], visible)
    with pytest.raises(ValueError, match="expected one shape for all"):
        loss(fused, infrared, visible[..., 1:])
    with pytest.raises(ValueError, match="pixel: expected one LossInputs, or fused, infrared, visible"):
        loss(LossInputs(fused, infrared, visible), infrared)
