"""The contract of a loss plugin.

A plugin is one `FusionLoss` in one file. Its constructor takes flat typed keywords and sub-modules,
never a configuration object, trainer, rank or device. It never steps an optimiser: the training loop
does, in one way for every loss, which keeps a comparison of losses fair.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from clipfuse.ops.checks import check_planes
from clipfuse.types import LossInputs, LossOutput


@dataclass(frozen=True)
class LossArtifacts:
    """Texts and images that a loss logs at validation.

    Attributes:
        texts: short texts by name, such as the words nearest to a prompt.
        images: captions and (1 or 3, H, W) images in [0, 1] of one size, in the order to be shown.
    """

    texts: Mapping[str, str]
    images: Sequence[tuple[str, Tensor]]


class FusionLoss(nn.Module, ABC):
    """A loss over fused, infrared and visible luma.

    Learnable parameters and buffers belong to the module. Every random draw is seeded by
    (`inputs.seed`, `inputs.step`, sample id), so that it depends on neither ranks, workers nor resume.
    Every rank runs the same number of forwards, backwards and collectives. A loss that asks a CLIP
    keeps it as `clip`: its identity becomes part of the run's record.
    """

    def __call__(
        self,
        inputs: LossInputs | Tensor,
        infrared: Tensor | None = None,
        visible: Tensor | None = None,
        **named: Any,
    ) -> LossOutput:
        """Return the loss of a record, or of three images outside of a training.

        `loss(fused, infrared, visible)` is `loss(LossInputs(fused, infrared, visible))`; the other fields of
        `LossInputs`, such as `step`, may follow by name.

        Args:
            inputs: a `LossInputs`, or the fused luma, (N, 1, H, W) float in [0, 1], with gradient.
            infrared: luma of the same shape; only beside a fused tensor.
            visible: the same.
            **named: further fields of `LossInputs`.

        Raises:
            ValueError: three images were not given, or are not (N, 1, H, W) of one shape.
        """
        if not isinstance(inputs, LossInputs):
            inputs = _inputs(inputs, infrared, visible, named)
        elif infrared is not None or visible is not None or named:
            raise ValueError(f"{self.name}: expected one LossInputs, or fused, infrared, visible")
        output: LossOutput = super().__call__(inputs)
        return output

    @property
    def name(self) -> str:
        """The plugin's name in log keys: the stem of its file."""
        return type(self).__module__.rpartition(".")[2]

    def setup(self, sample: LossInputs) -> None:
        """Look at one real sample before training and refuse what cannot work.

        Args:
            sample: inputs as `forward` will get them, without gradient.

        Raises:
            ValueError: names the plugin, what it needs and the remedy.
        """

    def artifacts(self, inputs: LossInputs) -> LossArtifacts | None:
        """Return texts and images to log at each validation, of the first pair; None: nothing.

        Args:
            inputs: a validation batch, without gradient.
        """
        return None

    @abstractmethod
    def forward(self, inputs: LossInputs) -> LossOutput:
        """Return the scalar to minimise and its terms; the inputs are left unchanged."""


def _inputs(fused: Any, infrared: Any, visible: Any, named: Mapping[str, Any]) -> LossInputs:
    planes = {"fused": fused, "infrared": infrared, "visible": visible}
    for word, plane in planes.items():
        if not isinstance(plane, Tensor):
            kind = type(plane).__name__
            raise ValueError(f"{word} is {kind}; expected a tensor (N, 1, H, W), floating point in [0, 1]")
    check_planes(**planes)
    return LossInputs(**planes, **named)


class BilevelLoss(FusionLoss):
    """A loss with a lower level of its own, such as learnable prompts.

    `upper_loss` and `lower_loss` are pure in `lower`: a solver evaluates them at values that are not
    the current parameters.
    """

    @abstractmethod
    def lower_parameters(self) -> Sequence[Tensor]:
        """Return the parameters of the lower level, in a fixed order."""

    @abstractmethod
    def prepare(self, inputs: LossInputs) -> Any:
        """Do once per step what both levels share, such as the CLIP pass; the result is the state."""

    @abstractmethod
    def upper_loss(self, state: Any, lower: Sequence[Tensor]) -> LossOutput:
        """Return F at the given lower values."""

    @abstractmethod
    def lower_loss(self, state: Any, lower: Sequence[Tensor]) -> LossOutput:
        """Return f at the given lower values."""

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Return F at the current parameters."""
        return self.upper_loss(self.prepare(inputs), self.lower_parameters())
