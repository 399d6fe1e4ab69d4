"""What every task is: a network that learns from labelled images, and the judgement of what it finds.

A task knows nothing of fusion. `retrained` and `frozen` train its network and judge it; the command line
brings the images of each source.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from clipfuse.errors import UserError, did_you_mean
from clipfuse.types import Boxes, LabelSet

Judgement = Mapping[str, Any]
"""What a network found on one image, in plain types: all scores come from it.

Its entry "map", (H, W) uint8, is the map of classes that was found, for drawings; it is not recorded.
"""

Progress = Callable[[int, int], None]
"""Called with the steps done and all of them: updates of the network, then judged images."""


@dataclass(frozen=True)
class Example:
    """One image of one source with its labels.

    Attributes:
        name: the pair's sample id.
        scene: the scene it shows.
        image: (C, H, W) uint8; 3 channels of a fused or single image, 4 of both bands (R, G, B, infrared).
        classes: class of each pixel, (H, W) uint8, 255 where it has none; None for a task that needs boxes.
        boxes: its objects; None for a task that needs maps of classes.
    """

    name: str
    scene: str
    image: Tensor
    classes: Tensor | None = None
    boxes: Boxes | None = None


class Task(ABC):
    """A task with its settings, made from `conf/downstream/*.yaml`.

    Attributes:
        name: "segmentation" or "detection", also the folder of its results.
        needs: "classes" or "boxes", what its examples must have.
        updates: optimiser updates of one training.
        batch_size: images per update.
        learning_rate: the highest of the schedule; see `clipfuse.downstream.learning`.
        weight_decay: of AdamW.
        crop: height and width of the images of an update; None: those of the smallest training image.
        scale: least and greatest magnification; see `clipfuse.downstream.augmentation`.
        weights: file of the trained network that frozen-1 takes; None: it trains one.
        save: file to which frozen-1 writes what it trains, if any.
    """

    name: ClassVar[str]
    needs: str
    updates: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.01
    crop: Sequence[int] | None = None
    scale: Sequence[float] = (1.0, 1.5)
    weights: str | None = None
    save: str | None = None

    def set_schedule(
        self,
        updates: int,
        batch_size: int,
        learning_rate: float,
        weight_decay: float,
        crop: Sequence[int] | None,
        scale: Sequence[float],
    ) -> None:
        """Set what `clipfuse.downstream.learning` goes by.

        Raises:
            UserError: a value out of range; names it.
        """
        size = None if crop is None else tuple(crop)
        for key, value, good, expected in (
            ("updates", updates, updates >= 1, "a whole number of 1 or more"),
            ("batch_size", batch_size, batch_size >= 2, "2 or more, since layers normalise over the batch"),
            ("learning_rate", learning_rate, 0 < learning_rate < math.inf, "a number above 0"),
            ("weight_decay", weight_decay, 0 <= weight_decay < math.inf, "0 or more"),
            (
                "crop",
                crop,
                size is None or (len(size) == 2 and min(size) >= 32),
                "null, or height and width from 32",
            ),
            (
                "scale",
                scale,
                len(scale) == 2 and 0 < scale[0] <= scale[1] <= 8,
                "two numbers in (0, 8], the less first",
            ),
        ):
            if not good:
                raise UserError(f"downstream.{key} is {value}; expected {expected}")
        self.updates, self.batch_size, self.learning_rate = updates, batch_size, learning_rate
        self.weight_decay, self.crop, self.scale = weight_decay, size, tuple(scale)

    @staticmethod
    def check_choice(key: str, value: str, known: Sequence[str]) -> None:
        """Require one of the known words for a setting.

        Raises:
            UserError: it is another; names the setting, and the nearest word.
        """
        if value not in known:
            words = " or ".join(known) if len(known) < 3 else f"one of {', '.join(known)}"
            raise UserError(
                f"downstream.{key} is '{value}'; expected {words}{did_you_mean(str(value), known)}"
            )

    def schedule(self) -> dict[str, Any]:
        """Return these settings in plain types."""
        return {
            **{"updates": self.updates, "batch_size": self.batch_size, "learning_rate": self.learning_rate},
            **{"weight_decay": self.weight_decay, "crop": self.crop and list(self.crop)},
            "scale": list(self.scale),
        }

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return all that changes its scores, in plain types: part of the key of kept results."""

    @abstractmethod
    def check(self, labels: LabelSet, train: Sequence[Example], test: Sequence[Example]) -> None:
        """Require labels that the task can be trained and judged with.

        Raises:
            UserError: one class only, no object in the test part, ...; names what is missing.
        """

    @abstractmethod
    def build(self, labels: LabelSet, channels: int, seed: int) -> nn.Module:
        """Return a new network; the same seed gives the same start for every source.

        Raises:
            UserError: the encoder's weights cannot be loaded.
        """

    def prepare(self, network: nn.Module, examples: Sequence[Example]) -> None:  # noqa: B027
        """Get the network ready for these examples before its first update, such as weights of classes."""

    def trained(self, labels: LabelSet, channels: int) -> nn.Module | None:
        """Return the network of a file that the settings name, for frozen-1; None: one is to be trained.

        Raises:
            UserError: the file cannot be read, or its network is another or finds other classes.
        """
        return None

    def keep(self, network: nn.Module, labels: LabelSet, seed: int) -> None:
        """Write the network that frozen-1 has trained to the file that the settings name, if they do."""
        return

    @abstractmethod
    def loss(self, network: nn.Module, images: Tensor, examples: Sequence[Example]) -> Tensor:
        """Return the scalar to minimise.

        Args:
            network: from `build`, in training mode.
            images: (N, C, H, W) float in [0, 1], after augmentation.
            examples: N examples with the labels after the same augmentation.
        """

    @abstractmethod
    def judge(self, network: nn.Module, labels: LabelSet, example: Example) -> Judgement:
        """Return what the network, in evaluation mode, finds on one image, together with the truth."""

    @abstractmethod
    def scores(self, labels: LabelSet, judgements: Sequence[Judgement]) -> dict[str, float]:
        """Return the scores of a set of images by name, in 0..100; NaN where one is not defined."""

    @abstractmethod
    def draw(self, labels: LabelSet, example: Example, judgement: Judgement | None) -> Tensor:
        """Return the image with what was found on it, (3, H, W) uint8; with the truth where it is None."""
