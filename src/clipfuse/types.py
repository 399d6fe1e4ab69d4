"""The records that travel from the data loader to the losses, in the order fused, infrared, visible.

A data set yields a `clipfuse.data.pairs.Pair` as stored. `clipfuse.data.transforms` makes a `FusionBatch` of
it, which data loader, training and callbacks share. Training adds the network's output: `LossInputs`.
A misspelt field of a record fails at once, a misspelt key of a dictionary only at the end of a sweep.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

from torch import Tensor

SAMPLES_SEEN = "trainer/samples_seen"
"""The x-axis of every curve: samples of all ranks; the step counter of two optimisers would count twice."""


IGNORED = 255
"""In a map of classes: a pixel without a label; it counts in no loss and no score."""


@dataclass(frozen=True)
class LabelSet:
    """What the labels of a data set mean; it belongs to the description of the data set.

    Attributes:
        names: names of the classes 0 to C-1, for example ("unlabelled", "car").
        background: the class that is no object, which some conventions leave out; None: there is none.
        palette: RGB of each class, C triples in 0..255, for drawings and colour-coded files; may be empty.
        groups: kinds of images that are also scored apart, (name, regular expression over sample ids), for
            example (("day", "D$"), ("night", "N$")).
        objects: names of the classes whose things can be counted and have boxes, such as ("person", "car");
            empty: all but the background.
    """

    names: tuple[str, ...]
    background: int | None = 0
    palette: tuple[tuple[int, int, int], ...] = ()
    groups: tuple[tuple[str, str], ...] = ()
    objects: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def countable(self) -> tuple[int, ...]:
        """Indices of the classes of `objects`, in the order of `names`."""
        return tuple(
            index
            for index, name in enumerate(self.names)
            if (name in self.objects if self.objects else index != self.background)
        )


@dataclass(slots=True)
class Boxes:
    """The labelled objects of one image; not frozen for the same reason as `FusionBatch`.

    Attributes:
        xyxy: left, top, right, bottom in pixels, edges of pixels at whole numbers, (K, 4) float32.
        classes: class of each object, an index of `LabelSet.names`, (K,) int64.
    """

    xyxy: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.classes)

    def pin_memory(self) -> "Boxes":
        """Return the boxes in page-locked memory."""
        return Boxes(self.xyxy.pin_memory(), self.classes.pin_memory())


@dataclass(slots=True)
class FusionBatch:
    """A batch of registered pairs of one size. Treat it as read-only.

    It is not frozen, because Lightning sets the fields of a copy when it moves the batch to a device or
    converts it to another precision.

    Attributes:
        infrared: (N, 1, H, W), float in [0, 1].
        visible: luma of the visible images, (N, 1, H, W), float in [0, 1].
        chroma: Cb and Cr of the visible images, (N, 2, H, W), float in [0, 1]; 0.5 where they are gray.
        sample_ids: N names, unique within a data set.
        target_mask: (N, 1, H, W) bool, True on targets; None where the data set has none.
        reference: ideal fused luma, (N, 1, H, W), float in [0, 1]; None where the data set has none.
        classes: class of each pixel, (N, H, W) int64, `IGNORED` where it has none; None where the data set
            has no map of classes.
        boxes: N records of the objects; None where the data set has none.
        captions: N texts about the images; None where the data set has none.
    """

    infrared: Tensor
    visible: Tensor
    chroma: Tensor
    sample_ids: tuple[str, ...]
    target_mask: Tensor | None = None
    reference: Tensor | None = None
    classes: Tensor | None = None
    boxes: tuple[Boxes, ...] | None = None
    captions: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.sample_ids)

    def pin_memory(self) -> "FusionBatch":
        """Return the batch in page-locked memory; the data loader calls this where there is a GPU."""
        values: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        pinned: dict[str, Any] = {}
        pinned |= {name: value.pin_memory() for name, value in values.items() if isinstance(value, Tensor)}
        if self.boxes is not None:
            pinned["boxes"] = tuple(boxes.pin_memory() for boxes in self.boxes)
        return FusionBatch(**{**values, **pinned})


@dataclass(frozen=True)
class FusionOutput:
    """What a backbone returns.

    Attributes:
        fused: fused luma, (N, 1, H, W), float in [0, 1].
        features: intermediate maps by name, for the losses that need them; may be empty.
        chroma: Cb and Cr of the fused image, (N, 2, H, W), float in [0, 1], of a network that learns them;
            None: the fused image keeps the chroma of the visible image.
    """

    fused: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    chroma: Tensor | None = None


class NetworkPass(Protocol):
    """A further pass of the network that is being trained, for a loss that looks at it more than once."""

    def __call__(
        self,
        infrared: Tensor,
        visible: Tensor,
        parameters: Mapping[str, Tensor] | None = None,
        chroma: Tensor | None = None,
    ) -> FusionOutput:
        """Return the network's output for other luma, both (N, 1, H, W), float in [0, 1].

        Args:
            infrared: luma.
            visible: luma.
            parameters: values to use in place of the network's own, by the names of `parameters`.
            chroma: Cb and Cr of the visible images, (N, 2, H, W); without it a network that learns the
                chroma returns none.
        """

    def parameters(self) -> dict[str, Tensor]:
        """Return the network's parameters that learn, by name."""


@dataclass(frozen=True)
class LossInputs:
    """All that a loss receives. Outside of the trainer, `LossInputs(fused, infrared, visible)` is enough.

    The planes are those of `FusionBatch`.

    Attributes:
        fused: fused luma, (N, 1, H, W), float in [0, 1], with gradient.
        infrared: (N, 1, H, W), float in [0, 1].
        visible: luma of the visible images, (N, 1, H, W), float in [0, 1].
        chroma: Cb and Cr of the visible images, (N, 2, H, W), float in [0, 1]; None becomes 0.5, gray.
        features: the backbone's named features.
        sample_ids: N names; left empty they become "0" to "N-1".
        step: number of optimiser updates before this one; schedules depend on it alone.
        seed: the training's seed; random draws are seeded by (seed, step, sample id).
        target_mask: (N, 1, H, W) bool, True on targets; None where the data set has none.
        reference: ideal fused luma, (N, 1, H, W), float in [0, 1]; None where the data set has none.
        classes: class of each pixel, (N, H, W) int64, `IGNORED` where it has none, or None.
        boxes: N records of the objects, or None.
        captions: N texts about the images, or None.
        fused_chroma: Cb and Cr of the fused image, (N, 2, H, W), float in [0, 1], with gradient where the
            network learns them; None becomes `chroma`.
        total_steps: number of optimiser updates of the whole training; None where it is not known.
        network: a further pass of the network that is being trained; None outside of a training.
        teacher: the same of the moving average of its weights, without gradient; None without a teacher.

    Raises:
        ValueError: fused, infrared and visible are not of one shape (N, 1, H, W), or sample_ids are not N.
    """

    fused: Tensor
    infrared: Tensor
    visible: Tensor
    chroma: Tensor = None  # type: ignore[assignment]  # a Tensor once it is made
    features: Mapping[str, Tensor] = field(default_factory=dict)
    sample_ids: tuple[str, ...] = ()
    step: int = 0
    seed: int = 0
    target_mask: Tensor | None = None
    reference: Tensor | None = None
    classes: Tensor | None = None
    boxes: tuple[Boxes, ...] | None = None
    captions: tuple[str, ...] | None = None
    fused_chroma: Tensor = None  # type: ignore[assignment]  # a Tensor once it is made
    total_steps: int | None = None
    network: NetworkPass | None = None
    teacher: NetworkPass | None = None

    def __post_init__(self) -> None:
        given = vars(self)  # the dictionary of a frozen record's fields, through which it can set its own
        shapes = {name: tuple(given[name].shape) for name in ("fused", "infrared", "visible")}
        if len(set(shapes.values())) > 1 or len(shapes["fused"]) != 4 or shapes["fused"][1] != 1:
            found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ValueError(f"LossInputs got {found}; expected luma of one shape (N, 1, H, W) for all three")
        count, _, height, width = shapes["fused"]
        if given["chroma"] is None:
            given["chroma"] = self.visible.new_full((count, 2, height, width), 0.5)
        if given["fused_chroma"] is None:
            given["fused_chroma"] = given["chroma"]
        if not self.sample_ids:
            given["sample_ids"] = tuple(map(str, range(count)))
        if len(self.sample_ids) != count:
            raise ValueError(
                f"LossInputs got {len(self.sample_ids)} sample ids for {count} images; expected one for each"
            )

    def part(self, samples: slice) -> "LossInputs":
        """Return some of the samples: their planes, features, names and labels."""
        parts: dict[str, Any] = {
            name: value[samples] for name, value in vars(self).items() if isinstance(value, Tensor | tuple)
        }
        features = {name: value[samples] for name, value in self.features.items()}
        return replace(self, **parts, features=features)


@dataclass(frozen=True)
class LossOutput:
    """What a loss returns.

    Attributes:
        total: the scalar to minimise, with gradient.
        terms: detached scalars by name for the log, unweighted.
        images: detached images by name that are logged during the training, (1 or 3, H, W), float in [0, 1];
            usually of the first pair, and none.
    """

    total: Tensor
    terms: Mapping[str, Tensor]
    images: Mapping[str, Tensor] = field(default_factory=dict)
