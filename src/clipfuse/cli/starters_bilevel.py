"""The texts that `clipfuse new-loss --bilevel` writes: losses with a lower level of their own."""

from clipfuse.cli.starters import HEAD, NOTE, Starter

_IMPORTS = """\
from clipfuse.testing import LossContract, ShortTraining, build_loss, example_inputs, loss_node
"""
_LEARNS = """\
    loss = build_loss(loss_node(CONFIG))
    training = ShortTraining(loss, example_inputs())
    state = loss.prepare(training.batch())
    before = float(loss.lower_loss(state, loss.lower_parameters()).total.detach())
    for _ in range(6):
        training.update()
    assert float(loss.lower_loss(state, loss.lower_parameters()).total.detach()) < before
"""

BILEVEL = Starter(
    HEAD
    + '''\
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from clipfuse.losses.base import BilevelLoss
from clipfuse.types import LossInputs, LossOutput


@dataclass(frozen=True)
class _State:
    """What both levels share in one update: the fused images with gradient, and their sources."""

    fused: Tensor
    sources: Tensor


class $cls(BilevelLoss):
    """Upper level: F = mean|F - max(I, V)| + weight x r(F; y). Lower level: f = r(F; y), over y.

    F, I, V are the fused, infrared and visible luma in [0, 1]. r is the mean squared error with which the
    network y finds both sources again in the fused image: an image from which they can be found again has
    kept what they show. The solver moves y, and the training the fusion network.
'''
    + NOTE
    + '''
    Args:
        weight: weight of r in F, 0 or more.
        width: channels of y, 1 or more.
        seed: of the first weights of y.

    Raises:
        ValueError: the weight is negative.
    """

    def __init__(self, weight: float = 1.0, width: int = 8, seed: int = 0) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"$name: weight is {weight}; expected 0 or more")
        self.weight = weight
        with torch.random.fork_rng(devices=()):  # the global generator stays as it was
            torch.manual_seed(seed)
            self.decoder = nn.Sequential(
                nn.Conv2d(1, width, 3, padding=1), nn.Tanh(), nn.Conv2d(width, 2, 3, padding=1), nn.Sigmoid()
            )
        self._names = [name for name, _ in self.decoder.named_parameters()]

    def lower_parameters(self) -> Sequence[Tensor]:
        """Return what the lower level learns, y."""
        return tuple(self.decoder.parameters())

    def prepare(self, inputs: LossInputs) -> _State:
        """Compute what both levels share, once per update."""
        return _State(inputs.fused, torch.cat([inputs.infrared, inputs.visible], dim=1))

    def upper_loss(self, state: _State, lower: Sequence[Tensor]) -> LossOutput:
        """Return F at the given y, which need not be the present parameters."""
        brightness = (state.fused - state.sources.amax(dim=1, keepdim=True)).abs().mean()
        found = self._error(state, lower)
        total = brightness + self.weight * found
        return LossOutput(total, {"brightness": brightness.detach(), "found": found.detach()})

    def lower_loss(self, state: _State, lower: Sequence[Tensor]) -> LossOutput:
        """Return f at the given y."""
        found = self._error(state, lower)
        return LossOutput(found, {"found": found.detach()})

    def _error(self, state: _State, lower: Sequence[Tensor]) -> Tensor:
        values = dict(zip(self._names, lower, strict=True))
        return (functional_call(self.decoder, values, (state.fused,)) - state.sources).square().mean()
''',
    """\
defaults:
  - override /solver@_global_.solver: alternate  # steps of y, then a step of the network

_target_: $name.$cls
weight: 1.0                 # weight of the error with which the sources are found again
width: 8                    # channels of the network that finds them
seed: $${oc.select:seed,0}   # of its first weights
""",
    "def test_the_lower_level_learns_to_find_the_sources() -> None:\n" + _LEARNS,
    _IMPORTS,
)

BILEVEL_CLIP = Starter(
    HEAD
    + '''\
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipfuse.clip.encoder import FrozenClip
from clipfuse.losses.base import BilevelLoss, FusionLoss
from clipfuse.types import LossInputs, LossOutput


@dataclass(frozen=True)
class _State:
    """What both levels share in one update: the fidelity, and embeddings of unit length, (N, D)."""

    fidelity: LossOutput
    fused: Tensor
    good: Tensor
    bad: Tensor


class $cls(BilevelLoss):
    """Upper level: F = fidelity + weight x mean -log s(y E(F)). Lower level: y learns good from bad images.

    f = mean -log s(y E(max(I, V))) + mean -log s(-y E((I + V) / 2))

    F, I, V are the fused, infrared and visible luma in [0, 1], E CLIP's embedding of unit length, s the
    logistic function, y a direction and an offset. The solver moves y, and the training the network.
'''
    + NOTE
    + '''
    Args:
        clip: the CLIP; a loss that has one keeps it as `clip`.
        fidelity: another loss, with weight 1.
        weight: weight of the guidance, 0 or more.
        text: where the direction begins: at the embedding of this text.

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
        self.clip, self.fidelity, self.weight = clip, fidelity, weight
        self.direction = nn.Parameter(F.normalize(clip.encode_text([text]))[0].clone())
        self.offset = nn.Parameter(torch.zeros(()))

    def lower_parameters(self) -> Sequence[Tensor]:
        """Return what the lower level learns, y."""
        return self.direction, self.offset

    def prepare(self, inputs: LossInputs) -> _State:
        """Compute what both levels share, once per update; CLIP sees each image once."""
        with torch.no_grad():
            good = self._embed(inputs.infrared.maximum(inputs.visible))
            bad = self._embed((inputs.infrared + inputs.visible) / 2)
        return _State(self.fidelity(inputs), self._embed(inputs.fused), good, bad)

    def upper_loss(self, state: _State, lower: Sequence[Tensor]) -> LossOutput:
        """Return F at the given y, which need not be the present parameters."""
        guidance = -F.logsigmoid(_score(state.fused, lower)).mean()
        total = state.fidelity.total + self.weight * guidance.to(state.fidelity.total.dtype)
        return LossOutput(total, {**state.fidelity.terms, "guidance": guidance.detach()})

    def lower_loss(self, state: _State, lower: Sequence[Tensor]) -> LossOutput:
        """Return f at the given y."""
        good = -F.logsigmoid(_score(state.good, lower)).mean()
        bad = -F.logsigmoid(-_score(state.bad, lower)).mean()
        return LossOutput(good + bad, {"good": good.detach(), "bad": bad.detach()})

    def _embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.clip.encode_image(images, resize="squash"))


def _score(embeddings: Tensor, lower: Sequence[Tensor]) -> Tensor:
    direction, offset = lower
    return embeddings.to(direction.dtype) @ direction + offset
''',
    """\
defaults:
  - pixel@fidelity          # the settings of the loss `pixel`, as loss.fidelity
  - override /solver@_global_.solver: alternate  # steps of y, then a step of the network

_target_: $name.$cls
clip: $${clip}               # the one of the run: clip=vit_b32_openai
weight: 0.2                 # weight of the guidance
text: a clear image with detailed background and salient objects
""",
    "def test_the_lower_level_learns_good_from_bad() -> None:\n" + _LEARNS,
    _IMPORTS,
)
