"""The chroma of a network that learns it: to the loss, into checkpoints and into every colour image."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from clipfuse.backbones.conv_tiny import ConvTiny
from clipfuse.data.transforms import whole
from clipfuse.downstream.sources import fused_image
from clipfuse.errors import UserError
from clipfuse.images import read_image
from clipfuse.losses.base import FusionLoss
from clipfuse.networks.apply import apply_in_color
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.networks.load import load_backbone
from clipfuse.ops.color import eight_bit_rgb
from clipfuse.ops.depth import to_bytes
from clipfuse.runs.build import build
from clipfuse.runs.train import train
from clipfuse.training.learned_chroma import LearnedChroma
from clipfuse.training.passes import FurtherPass
from clipfuse.types import FusionBatch, FusionOutput, LossInputs, LossOutput


class Warm(FusionLoss):
    """Draws colours to one that no image has, beside luma to the visible one."""

    def forward(self, inputs: LossInputs) -> LossOutput:
        wanted = inputs.fused_chroma.new_tensor([0.2, 0.9]).view(2, 1, 1)
        total = (inputs.fused_chroma - wanted).square().mean() + (
            inputs.fused - inputs.visible
        ).square().mean()
        return LossOutput(total, {"all": total.detach()})


def batch(count: int = 2, side: int = 16) -> FusionBatch:
    planes = torch.rand(count, 4, side, side, generator=torch.Generator().manual_seed(0))
    ids = tuple(map(str, range(count)))
    return FusionBatch(planes[:, :1], planes[:, 1:2], planes[:, 2:], ids)


def network() -> ConvTiny:
    torch.manual_seed(0)
    made = ConvTiny(width=4, depth=1, chroma=True)
    torch.nn.init.normal_(made.chroma_head.change.weight, std=0.3)
    return made


def test_a_loss_of_luma_gives_the_chroma_a_gradient_of_zero(caplog: pytest.LogCaptureFixture) -> None:
    """DDP waits for the gradient of every parameter; luma and its gradients are as without."""
    made, given, learned = network(), batch(), LearnedChroma()
    planes = given.infrared, given.visible
    (made(*planes).fused - given.visible).square().mean().backward()
    expected = {name: each.grad for name, each in made.named_parameters() if each.grad is not None}
    assert not any("chroma" in name for name in expected)
    made.zero_grad(set_to_none=True)
    fused, _ = learned(made(*planes, given.chroma), given)
    assert torch.equal(fused, made(*planes).fused)
    (fused - given.visible).square().mean().backward()
    for name, each in made.named_parameters():
        assert each.grad is not None, name
        assert torch.equal(each.grad, expected.get(name, torch.zeros_like(each))), name
    learned.report("pixel")
    learned.report("pixel")
    (line,) = caplog.messages
    assert line.startswith("the network learns the chroma, but the loss 'pixel' has not looked at")
    assert "in 1 batches" in line


def test_a_loss_that_looks_at_it_is_heard_of(caplog: pytest.LogCaptureFixture) -> None:
    made, given, learned = network(), batch(), LearnedChroma()
    fused, chroma = learned(made(given.infrared, given.visible, given.chroma), given)
    inputs = LossInputs(fused, given.infrared, given.visible, given.chroma, fused_chroma=chroma)
    Warm()(inputs).total.backward()
    assert all(bool(each.grad.any()) for each in made.chroma_head.parameters())
    learned.report("warm")
    assert not caplog.messages


def test_kept_chroma_and_validation_pass_unchanged() -> None:
    given, learned = batch(), LearnedChroma()
    output = ConvTiny(width=4, depth=1)(given.infrared, given.visible)
    fused, chroma = learned(output, given)
    assert (fused is output.fused, chroma) == (True, None)
    with torch.no_grad():
        output = network()(given.infrared, given.visible, given.chroma)
    fused, chroma = learned(output, given)
    assert (fused is output.fused, chroma is output.chroma) == (True, True)
    with pytest.raises(UserError, match=r"chroma from -0\.5 to .* expected Cb and Cr in \[0, 1\]"):
        LearnedChroma()(FusionOutput(given.visible, chroma=given.chroma * 0 - 0.5), given)


def test_a_further_pass_takes_it() -> None:
    made, given = network(), batch()
    further = FurtherPass(made, "cpu")
    first = further(given.infrared, given.visible, chroma=given.chroma)
    expected = made(given.infrared, given.visible, given.chroma).chroma
    assert first.chroma is not None
    assert expected is not None
    assert torch.equal(first.chroma, expected)
    assert further(given.infrared, given.visible).chroma is None


def test_a_training_writes_the_colours_it_has_learned(
    tiny_config: Callable[..., DictConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = ["loss=custom", f"loss._target_={__name__}.Warm", "backbone.chroma=true", "optimizer.lr=0.02"]
    config = tiny_config(*own, "steps=12", "metrics.protocol=vifb", "ema=0.5")
    with caplog.at_level(logging.WARNING):
        train(config)
    assert not [line for line in caplog.messages if "chroma" in line]
    file = tmp_path / "run/checkpoints/last.ckpt"
    assert read_checkpoint(file)["clipfuse"]["config"]["backbone"]["chroma"] is True
    made = load_backbone(file)
    assert made.learns_chroma
    source = build(config.data, "data")
    moved: list[Tensor] = []
    for name in sorted(path.stem for path in (tmp_path / "run/test/color").glob("*.png")):
        pair = whole(source.load(name), name)
        fused, chroma = apply_in_color(made, pair.infrared, pair.visible, pair.chroma)
        moved.append((chroma - pair.chroma).abs().mean())
        written = read_image(tmp_path / f"run/test/color/{name}.png")
        assert torch.equal(written, to_bytes(eight_bit_rgb(fused, chroma))[0])
        assert torch.equal(fused_image(made, pair, "it"), written)
        luma = read_image(tmp_path / f"run/test/fused/{name}.png")
        assert torch.equal(luma, to_bytes(fused)[0])
    assert min(moved) > 0.01  # so that the comparison above tells learned from kept
