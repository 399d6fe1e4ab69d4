"""The texts that `clipfuse new-loss` writes: losses, their configurations and their tests."""

from dataclasses import dataclass

HEAD = '''\
"""$title: write here in one line which fused image this loss prefers."""

'''
NOTE = """\
    Replace it by your own idea; `clipfuse.types.LossInputs` lists what a loss receives. One that needs labels
    names them, as in needs = frozenset({"classes"}).
"""


@dataclass(frozen=True)
class Starter:
    """What one kind of loss begins with; `string.Template` puts in name, cls and title.

    Attributes:
        loss: text of the module.
        config: text of conf/loss/NAME.yaml behind its first line.
        test: tests of this loss, behind those of the contract.
        imports: what these tests import, behind pytest.
    """

    loss: str
    config: str
    test: str
    imports: str


PLAIN = Starter(
    HEAD
    + '''\
import torch
from torch import Tensor

from clipfuse.losses.base import FusionLoss
from clipfuse.types import LossInputs, LossOutput


class $cls(FusionLoss):
    """weight x mean|F - max(I, V)| + contrast_weight x mean|s(F) - max(s(I), s(V))|.

    F, I, V are the fused, infrared and visible luma in [0, 1], s the standard deviation of each image.
'''
    + NOTE
    + '''
    Args:
        weight: weight of the first term, 0 or more.
        contrast_weight: weight of the second term, 0 or more.

    Raises:
        ValueError: a weight is negative.
    """

    def __init__(self, weight: float = 1.0, contrast_weight: float = 0.1) -> None:
        super().__init__()
        if weight < 0 or contrast_weight < 0:
            raise ValueError(f"$name: weights are {weight} and {contrast_weight}; expected 0 or more")
        self.weight = weight
        self.contrast_weight = contrast_weight

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Return the scalar to minimise, and detached terms for the log."""
        fused, infrared, visible = inputs.fused, inputs.infrared, inputs.visible
        brightness = (fused - infrared.maximum(visible)).abs().mean()
        stronger = _contrast(infrared).maximum(_contrast(visible))
        contrast = (_contrast(fused) - stronger).abs().mean()
        total = self.weight * brightness + self.contrast_weight * contrast
        return LossOutput(total, {"brightness": brightness.detach(), "contrast": contrast.detach()})


def _contrast(images: Tensor) -> Tensor:
    """Return the standard deviation of each of (N, 1, H, W) images, (N,)."""
    # A root has no finite slope at 0, which is the variance of a blank image.
    return torch.sqrt(images.flatten(1).var(dim=1, correction=0) + 1e-6)
''',
    """\
_target_: $name.$cls
weight: 1.0                 # weight of the distance to the brighter pixel
contrast_weight: 0.1        # weight of the distance to the stronger contrast
""",
    """\
def test_brightness_is_zero_at_the_brighter_pixel_alone() -> None:
    loss, inputs = $cls(), example_inputs()
    best = inputs.infrared.maximum(inputs.visible)
    assert float(loss(best, inputs.infrared, inputs.visible).terms["brightness"]) == 0
    assert float(loss(inputs).terms["brightness"]) > 0.01


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 0 or more"):
        $cls(weight=-1.0)
""",
    """\
from clipfuse.testing import LossContract, example_inputs, loss_node

from $name import $cls
""",
)

CLIP = Starter(
    HEAD
    + '''\
import torch

from clipfuse.clip.encoder import FrozenClip
from clipfuse.losses.base import FusionLoss
from clipfuse.types import LossInputs, LossOutput


class $cls(FusionLoss):
    """fidelity + weight x mean(1 - cos(E(F), E(text))).

    F is the fused luma in [0, 1], E CLIP's embedding; the fidelity is another loss, which keeps the pixels.
'''
    + NOTE
    + '''
    Args:
        clip: the CLIP; a loss that has one keeps it as `clip`.
        fidelity: another loss, with weight 1.
        weight: weight of the guidance, 0 or more.
        text: what the fused image should look like.

    Raises:
        ValueError: the weight is negative, or the text is longer than CLIP reads.
    """

    def __init__(
        self,
        clip: FrozenClip,
        fidelity: FusionLoss,
        weight: float = 0.2,
        text: str = "a clear image with detailed background and salient objects",
    ) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"$name: weight is {weight}; expected 0 or more")
        self.clip, self.fidelity = clip, fidelity
        self.weight, self.text = weight, text
        clip.encode_text([text])  # refuses what cannot be read, before a training begins

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Return the scalar to minimise, and detached terms for the log."""
        fidelity = self.fidelity(inputs)
        images = self.clip.encode_image(inputs.fused, resize="squash")  # first: moves CLIP to their device
        cosines = torch.cosine_similarity(images, self.clip.encode_text([self.text]))
        guidance = (1 - cosines).mean().to(inputs.fused.dtype)
        total = fidelity.total + self.weight * guidance
        return LossOutput(total, {**fidelity.terms, "guidance": guidance.detach()})
''',
    """\
defaults: [pixel@fidelity]  # the settings of the loss `pixel`, as loss.fidelity

_target_: $name.$cls
clip: $${clip}               # the one of the run: clip=vit_b32_openai
weight: 0.2                 # weight of the guidance
text: a clear image with detailed background and salient objects
""",
    """\
def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(UserError, match="expected 0 or more"):
        build_loss(loss_node(CONFIG, "loss.weight=-1"))
""",
    """\
from clipfuse.errors import UserError
from clipfuse.testing import LossContract, build_loss, loss_node
""",
)

TEST = '''\
"""Tests of the contract of losses and of this loss. Run: python -m pytest test_$name.py."""

from pathlib import Path
from typing import Any

import pytest
${imports}
CONFIG = Path(__file__).parent / "conf" / "loss" / "$name.yaml"


class TestContract(LossContract):
    @pytest.fixture
    def node(self) -> dict[str, Any]:
        return loss_node(CONFIG)


'''
