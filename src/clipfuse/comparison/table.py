"""The table of a comparison, from which every format is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from clipfuse.comparison.statistics import LEVEL, Array, Cell, Estimate
from clipfuse.metrics.protocols import Protocol
from clipfuse.metrics.verdict import VerdictSet

if TYPE_CHECKING:
    from clipfuse.comparison.machine import Seen

FEW_SEEDS = 4  # with fewer seeds per loss no winner is named
FEW_SCENES = 10  # with fewer effective scenes no winner is named


@dataclass(frozen=True)
class Difference:
    """How a loss's score on one metric differs from another's.

    Attributes:
        estimate: mean score of the loss less that of the other; see `crossed_difference`. With one training
            of either loss it has a value only, no variance.
        higher_is_better: direction of the metric.
        holm: p-value corrected by Holm's method over all tests of the table; 1 without a test.
        discovery: p-value corrected by Benjamini and Hochberg's method over all tests; 1 without a test.
        median: median over images of the difference, scores averaged over seeds.
        detectable: smallest true difference that as many seeds and scenes find clearly with a probability of
            80 %; infinite where the variance cannot be estimated.
        equal: all scores of all seeds are the same to the last bit.
    """

    estimate: Estimate
    higher_is_better: bool
    holm: float
    discovery: float
    median: float
    detectable: float
    equal: bool = False

    @property
    def tested(self) -> bool:
        """Whether there are enough trainings for a test."""
        return self.estimate.degrees == self.estimate.degrees

    @property
    def divided(self) -> bool:
        """Whether mean and median have opposite signs: then a few images decide the mean."""
        return self.estimate.value * self.median < 0

    @property
    def word(self) -> Literal["clearly", "likely", ""]:
        """How certain a difference is: corrected p below 0.05 by Holm, or by Benjamini and Hochberg."""
        if not self.tested or self.divided:
            return ""
        return "clearly" if self.holm < LEVEL else "likely" if self.discovery < LEVEL else ""

    @property
    def finding(self) -> str:
        """For example "clearly better"; empty where nothing was found."""
        return f"{self.word} {'better' if self.better > 0 else 'worse'}" if self.better else ""

    @property
    def better(self) -> int:
        """1 or -1 where the loss is clearly or likely better or worse, by the sign of the mean; else 0."""
        if not self.word or not self.estimate.value:
            return 0
        return 1 if (self.estimate.value > 0) == self.higher_is_better else -1


@dataclass(frozen=True)
class Rival:
    """The best loss against one other by their runs' ranks.

    Attributes:
        name: name of the other loss.
        estimate: average rank of the other less that of the best.
        equal: both have the same scores to the last bit.
    """

    name: str
    estimate: Estimate
    equal: bool

    @property
    def beaten(self) -> bool:
        """Whether its rank is worse by the crossed t-test at 5 %."""
        return not self.equal and self.estimate.value > 0 and self.estimate.p < LEVEL


@dataclass(frozen=True)
class Row:
    """A loss, or a trivial fusion.

    Attributes:
        name: name of the loss with its settings (`Variant`), or of the trivial fusion.
        trivial: whether it is a trivial fusion.
        seeds: seeds of its runs.
        cells: cells by metric; a metric that is not defined has none.
        rank: average rank of its runs among all runs by the verdict set, 1 is best; of a trivial fusion:
            where it would stand among them. None with one loss, or where a trivial fusion lacks a score.
        rank_interval: 95 % interval of the rank over seeds and scenes.
        first: share of the resamples over seeds and scenes in which its average rank is the best; None where
            there is one training of some loss.
        stable: share of the random halves of the verdict set by which its average rank is the best.
        seconds: training time in seconds, mean over its runs; None if a run has not recorded it.
        projected: whether the time is projected from the part after a resume.
        samples_per_second: training samples per second of training and validation.
        memory_mb: largest peak of memory among its runs, in MB.
        device: devices of its runs.
        kind: what a row without training is: "trivial", "both bands", or "given" for other images.
    """

    name: str
    trivial: bool
    seeds: tuple[int, ...] = ()
    cells: Mapping[str, Cell] = field(default_factory=dict)
    rank: float | None = None
    rank_interval: tuple[float, float] | None = None
    first: float | None = None
    stable: float | None = None
    seconds: float | None = None
    projected: bool = False
    samples_per_second: float | None = None
    memory_mb: float | None = None
    device: str = ""
    kind: str = "trivial"


@dataclass(frozen=True)
class Column:
    """A metric: name, direction, decimals to print, images it is taken over and those left out.

    `detectable` is the smallest true difference that is found clearly with a probability of 80 %: the median
    over the differences of the table; None if none can be tested. `protocol` and `scenes` are those of a
    downstream score; None where they are the table's.
    """

    name: str
    higher_is_better: bool
    checked: bool
    decimals: int
    images: int
    left_out: int
    detectable: float | None = None
    protocol: str | None = None
    scenes: int | None = None

    @property
    def label(self) -> str:
        """Name, the direction that is better, and a star if no published code was checked against."""
        return f"{self.name} {'↑' if self.higher_is_better else '↓'}{'' if self.checked else '*'}"


@dataclass(frozen=True)
class Table:
    """A comparison.

    Attributes:
        protocol: protocol of all scores.
        verdict_set: the metrics that rank the runs.
        families: the families of these metrics that the runs have, family -> metrics.
        columns: the metrics.
        rows: losses by average rank, then the trivial fusions.
        against: pairs of losses that are tested, (loss, reference loss).
        differences: pair -> metric -> difference.
        rivals: the first loss against each other loss by ranks, best first; empty with one loss.
        better: share of scenes and pairs of runs, families weighing alike, in which the row's run is better
            than the column's; (rows, rows), half for ties. None with one loss.
        images: names of the test images that all runs have.
        scenes: number of scenes of these images.
        effective_scenes: number of scenes of equal size that would give as precise a mean.
        twins: pairs of losses with the same scores to the last bit.
        seen: what machines see, by task and protocol.
    """

    protocol: Protocol
    verdict_set: VerdictSet
    families: Mapping[str, Sequence[str]]
    columns: Sequence[Column]
    rows: Sequence[Row]
    against: Sequence[tuple[str, str]]
    differences: Mapping[tuple[str, str], Mapping[str, Difference]]
    rivals: Sequence[Rival]
    better: Array | None
    images: Sequence[str]
    scenes: int
    effective_scenes: float
    twins: Sequence[tuple[str, str]] = ()
    seen: "Sequence[Seen]" = ()

    @property
    def losses(self) -> list[Row]:
        """The rows that were trained."""
        return [row for row in self.rows if not row.trivial]

    @property
    def runs(self) -> int:
        """Number of trainings."""
        return sum(len(row.seeds) for row in self.losses)

    @property
    def seeds(self) -> int:
        """Number of trainings of the loss with the fewest."""
        return min(len(row.seeds) for row in self.losses)

    @property
    def tests(self) -> int:
        """Number of tests that the corrections count."""
        return sum(each.tested for column in self.differences.values() for each in column.values())

    @property
    def too_few(self) -> list[str]:
        """Why no winner may be named, in words; empty where one may."""
        reasons = []
        if self.seeds < FEW_SEEDS:
            reasons.append(f"{self.seeds} seeds per loss are fewer than {FEW_SEEDS}")
        if self.effective_scenes < FEW_SCENES:
            shown = f"{self.effective_scenes:.1f}"
            reasons.append(f"{shown} effective scenes are fewer than {FEW_SCENES}")
        return reasons
