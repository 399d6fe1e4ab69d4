"""The records that travel through ClipFuse. All images are luma or chroma planes, float, in [0, 1].

A misspelt field of a frozen dataclass fails at once, a misspelt dictionary key only at the end of
a sweep. The order of words is always fused, infrared, visible.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

SAMPLES_SEEN = "trainer/samples_seen"
"""The x-axis of every curve: samples of all ranks; the step counter of two optimisers would count twice."""


@dataclass(frozen=True)
class FusionBatch:
    """A batch of registered pairs of one size, as the data module yields it.

    Attributes:
        infrared: (N, 1, H, W) in [0, 1].
        visible: luma of the visible image, (N, 1, H, W) in [0, 1].
        chroma: Cb and Cr of the visible image, (N, 2, H, W) in [0, 1], 0.5 where it is gray.
        sample_ids: N names, unique within a data set.
        target_mask: (N, 1, H, W) bool, True on targets; None where the data has none.
        reference: ideal fused luma, (N, 1, H, W) in [0, 1]; None where the data has none.
    """

    infrared: Tensor
    visible: Tensor
    chroma: Tensor
    sample_ids: tuple[str, ...]
    target_mask: Tensor | None = None
    reference: Tensor | None = None

    def __len__(self) -> int:
        return len(self.sample_ids)


@dataclass(frozen=True)
class FusionOutput:
    """What a backbone returns.

    Attributes:
        fused: fused luma, (N, 1, H, W) in [0, 1].
        features: intermediate maps by name, for losses that ask for them; may be empty.
    """

    fused: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class LossInputs:
    """Everything a loss may look at; the three images are enough outside of a training.

    Attributes:
        fused: luma in [0, 1], (N, 1, H, W), with gradient.
        infrared: luma in [0, 1], (N, 1, H, W).
        visible: luma in [0, 1], (N, 1, H, W).
        chroma: Cb and Cr of the visible image in [0, 1], (N, 2, H, W); where it is not given, gray: 0.5.
        features: the backbone's named features; none by default.
        sample_ids: N names; where they are not given, "0", "1", ...
        step: number of optimiser updates before this one; schedules depend on it alone.
        seed: the run's seed; random draws are seeded by (seed, step, sample id).
        target_mask: (N, 1, H, W) bool, or None.
        reference: (N, 1, H, W) in [0, 1], or None.
    """

    fused: Tensor
    infrared: Tensor
    visible: Tensor
    chroma: Tensor = None  # type: ignore[assignment]  # filled in below
    features: Mapping[str, Tensor] = field(default_factory=dict)
    sample_ids: tuple[str, ...] = ()
    step: int = 0
    seed: int = 0
    target_mask: Tensor | None = None
    reference: Tensor | None = None

    def __post_init__(self) -> None:
        if self.chroma is None:
            count, _, height, width = self.visible.shape  # type: ignore[unreachable]
            object.__setattr__(self, "chroma", self.visible.new_full((count, 2, height, width), 0.5))
        if not self.sample_ids:
            object.__setattr__(self, "sample_ids", tuple(map(str, range(len(self.visible)))))


@dataclass(frozen=True)
class LossOutput:
    """What a loss returns.

    Attributes:
        total: the scalar to minimise, with gradient.
        terms: detached scalars by name for the log, unweighted.
    """

    total: Tensor
    terms: Mapping[str, Tensor]
