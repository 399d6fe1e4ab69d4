"""The contract of a loss plugin.

A plugin is one `FusionLoss` in one file. Its constructor takes flat typed keywords and sub-modules,
never a configuration object, trainer, rank or device. It never steps an optimiser: the training loop does,
in the same way for every loss, so that the comparison of losses is fair.
"""

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from inspect import isabstract, signature
from typing import Any, ClassVar

from torch import Tensor, nn

from clipfuse.errors import UserError
from clipfuse.ops.checks import check_planes, output_fault
from clipfuse.ops.settings import plugin_name
from clipfuse.types import LossInputs, LossOutput

LABELS = {
    "classes": "the data do not have: the class of each pixel; take data with maps of classes (data.labels)",
    "boxes": "the data do not have: the objects of each image; take data with boxes (data.labels)",
    "captions": "the data do not have: a text about each pair; name a table by data.captions",
}
"""What a loss can need beside the images, and how to get it."""


@dataclass(frozen=True)
class LossArtifacts:
    """Texts and images that a loss logs at validation.

    Attributes:
        texts: short texts by name, such as the words nearest to a prompt.
        images: captions and (1 or 3, H, W) images in [0, 1] of one size, in the order of display.
    """

    texts: Mapping[str, str]
    images: Sequence[tuple[str, Tensor]]


@dataclass(frozen=True)
class ParameterGroup:
    """How some of a loss's own parameters learn; None: as the network does.

    Attributes:
        lr: learning rate, above 0; the schedule multiplies it as that of the network.
        weight_decay: 0 or more, in an optimiser that has it.
        gradient_clip: largest L2 norm of their gradient, above 0; they then count no more in the norm of the
            network's. `math.inf` does not clip.
    """

    lr: float | None = None
    weight_decay: float | None = None
    gradient_clip: float | None = None


class FusionLoss(nn.Module, ABC):
    """A loss over fused, infrared and visible luma.

    Learnable parameters and buffers belong to the module. Every random draw is seeded by
    (`inputs.seed`, `inputs.step`, sample id), so that it depends on neither ranks, workers nor resume.
    Every rank runs the same number of forwards, backwards and collectives. A loss that uses a CLIP
    keeps it as `clip`: its identity becomes part of the run's record.

    Attributes:
        place: its key in the configuration, for messages; the loss that holds it as a part sets another.
        needs: the labels it cannot work without, some of "classes", "boxes" and "captions", the fields of
            `LossInputs`; data without them are refused before the training. A fused image never needs them.
        teacher_decay: where it is a number in [0, 1), the training keeps a moving average of the network's
            weights with this decay, and gives it as `inputs.teacher`.
        reads: the labels that it uses where the data have them, and can do without; like those of `needs`
            they become part of the run's record.
    """

    place: str = "loss"
    needs: ClassVar[frozenset[str]] = frozenset()
    teacher_decay: float | None = None
    reads: ClassVar[frozenset[str]] = frozenset()

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
        return check_loss_output(self, super().__call__(inputs))

    @property
    def name(self) -> str:
        """The plugin's name in log keys: the stem of its file, or of its class where files do not tell apart.

        Theirs do not where a file is named as any loss could be, such as theirs/loss.py, or holds several.
        """
        return _name(type(self))

    def inner(self) -> Mapping[str, "FusionLoss"]:
        """Return the losses that this one holds, by their keys in its configuration, as in "of.pixel"."""
        return {name: part for name, part in self.named_children() if isinstance(part, FusionLoss)}

    def placed(self) -> "list[FusionLoss]":
        """Return the inner losses, each with its place."""
        for key, part in self.inner().items():
            part.place = f"{self.place}.{key}"
        return list(self.inner().values())

    def notices(self, steps: int) -> list[str]:
        """Return a sentence for each setting that has no effect in a training of so many updates.

        A loss adds its own to those of its inner losses; they are shown once, before the training.
        """
        return [notice for part in self.placed() for notice in part.notices(steps)]

    def unused(self, reason: str, *names: str, **values: Any) -> list[str]:
        """Return a sentence for each argument that is not at its default, and has no effect for a reason."""
        values |= {name: getattr(self, name) for name in names}
        known = signature(type(self)).parameters
        changed = (name for name, value in values.items() if name in known and value != known[name].default)
        return [f"{self.place}.{name}={values[name]} has no effect: {reason}" for name in changed]

    def required(self) -> dict[str, str]:
        """Return the labels that this loss and its inner losses need, with the name of a loss that does.

        Raises:
            UserError: `needs` has another entry than the three; names the class.
        """
        needs: object = self.needs
        if not isinstance(needs, frozenset) or not needs <= {*LABELS}:
            raise UserError(
                f"the loss {type(self).__qualname__} has needs = {needs!r}; expected a frozenset of some of "
                f"{', '.join(LABELS)}"
            )
        found = {kind: self.name for kind in LABELS if kind in self.needs}
        for part in self.inner().values():
            found = part.required() | found
        return found

    def required_teacher(self) -> float | None:
        """Return the decay of the teacher that this loss or an inner one needs; None: none does.

        Raises:
            UserError: a decay is no number in [0, 1), or two losses need teachers of unlike decays.
        """
        decay: object = self.teacher_decay
        if decay is not None and not (isinstance(decay, int | float) and 0 <= decay < 1):
            raise UserError(
                f"the loss {self.name} has teacher_decay = {decay!r}; expected a number in [0, 1)"
            )
        found = [self.teacher_decay, *(part.required_teacher() for part in self.inner().values())]
        decays = sorted({each for each in found if each is not None})
        if len(decays) > 1:
            raise UserError(
                f"parts of the loss {self.name} need teachers of unlike decays, "
                f"{' and '.join(map(str, decays))}; expected one teacher_decay for all"
            )
        return next(iter(decays), None)

    def parameter_groups(self) -> Mapping[str, ParameterGroup]:
        """Return how own parameters learn, where not as the network: by the name of a parameter or a part.

        A name is one of `named_parameters()`, or its beginning before a dot, such as "discriminator". Those
        of inner losses are kept: add your own to `super().parameter_groups()`.
        """
        return {
            f"{key}.{name}": group
            for key, part in self.inner().items()
            for name, group in part.parameter_groups().items()
        }

    def check_labels(self, sample: LossInputs) -> None:
        """Require the labels that this loss and its inner losses need; a training calls it before `setup`.

        Raises:
            ValueError: names the first that is missing, the loss that needs it and the remedy.
        """
        for kind, name in self.required().items():
            if getattr(sample, kind) is None:
                raise ValueError(f"the loss {name} needs {kind}, which {LABELS[kind]}")

    def setup(self, sample: LossInputs) -> None:
        """Check one real sample before training, here and in the inner losses.

        Args:
            sample: inputs as `forward` will get them, without gradient.

        Raises:
            ValueError: the loss cannot work with it; names the plugin, what it needs and the remedy.
        """
        self.check_labels(sample)
        for part in self.placed():
            part.setup(sample)

    def artifacts(self, inputs: LossInputs) -> LossArtifacts | None:
        """Return texts and images of the first pair for the log of a validation, or None.

        Args:
            inputs: a validation batch, without gradient.
        """
        return None

    @abstractmethod
    def forward(self, inputs: LossInputs) -> LossOutput:
        """Return the scalar to minimise and its terms; the inputs are left unchanged."""


@cache
def _name(kind: type[FusionLoss]) -> str:
    module = kind.__module__
    beside = [
        each
        for each in vars(sys.modules.get(module, kind)).values()
        if isinstance(each, type) and issubclass(each, FusionLoss) and each.__module__ == module
    ]
    several = not module.startswith("clipfuse.") and sum(not isabstract(each) for each in beside) > 1
    return plugin_name(f"{module}.{kind.__name__}", several)


def check_loss_output(loss: FusionLoss, output: object) -> LossOutput:
    """Return what a loss returned, if it is a `LossOutput` of scalars and images.

    Raises:
        UserError: it is not; the message names the class of the loss and what was expected.
    """
    fault = output_fault(output)
    if fault or not isinstance(output, LossOutput):
        raise UserError(f"the loss {type(loss).__qualname__} returned {fault}")
    return output


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

    The fusion network descends F; a solver decides by what its own parameters learn: by f on the images
    that the network fuses now, or, with `solver=unrolled`, by f on those that it would fuse after a step
    down F.

    Attributes:
        solvers: names of the solvers that can train it, such as "alternate"; None: all.
    """

    solvers: frozenset[str] | None = None

    @abstractmethod
    def lower_parameters(self) -> Sequence[Tensor]:
        """Return the parameters of the lower level, in a fixed order."""

    @abstractmethod
    def prepare(self, inputs: LossInputs) -> Any:
        """Compute what both levels share, such as the CLIP pass; called once per step."""

    @abstractmethod
    def upper_loss(self, state: Any, lower: Sequence[Tensor]) -> LossOutput:
        """Return F at the given lower values."""

    @abstractmethod
    def lower_loss(self, state: Any, lower: Sequence[Tensor]) -> LossOutput:
        """Return f at the given lower values."""

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Return F at the current parameters."""
        return self.upper_loss(self.prepare(inputs), self.lower_parameters())


def require(loss: str, least: float, **values: float) -> None:
    """Check numbers that a loss was given, by the names of its arguments.

    Raises:
        ValueError: one is below `least`, infinite or not a number; names the loss and the argument.
    """
    for name, value in values.items():
        if not least <= value < math.inf:
            raise ValueError(f"{loss} loss: {name} is {value}; expected {least} or more")


def require_terms(loss: str, weights: Mapping[str, float]) -> None:
    """Check the weights of a loss's terms: that of the term `edge` is the argument `edge_weight`.

    Raises:
        ValueError: one is refused by `require`, or all are 0.
    """
    require(loss, 0, **{f"{term}_weight": weight for term, weight in weights.items()})
    if not any(weights.values()):
        raise ValueError(f"{loss} loss: all weights are 0, nothing would be trained; set one above 0")


@contextmanager
def named_errors(*names: str) -> Iterator[None]:
    """Put names, such as the loss's, before the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(": ".join([*names, str(error)])) from error
