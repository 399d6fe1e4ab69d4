"""The one table of a comparison, from which every format is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from clipfuse.comparison.statistics import LEVEL, Array, Estimate
from clipfuse.metrics.protocols import Protocol
from clipfuse.metrics.verdict import VerdictSet

FEW_SEEDS = 4  # below them nothing is called a winner
FEW_SCENES = 10  # effective ones


@dataclass(frozen=True)
class Difference:
    """How a loss's score on one metric differs from another's.

    Attributes:
        estimate: its mean less the other's; see `crossed_difference`. With one training on either side it
            has a value and nothing else.
        higher_is_better: of the metric.
        holm: p-value corrected by Holm's method over all tests of the table; 1 where there is none.
        discovery: p-value corrected by Benjamini and Hochberg's method over the same.
        median: of the images' differences, scores averaged over seeds.
        detectable: smallest difference that would have been found clearly with 80 %, by as many seeds and
            scenes; infinite where nothing can be told.
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
        """Whether mean and median disagree in sign: a few images decide the mean."""
        return self.estimate.value * self.median < 0

    @property
    def word(self) -> Literal["clearly", "likely", ""]:
        """How sure it is that there is a difference."""
        if not self.tested or self.divided:
            return ""
        return "clearly" if self.holm < LEVEL else "likely" if self.discovery < LEVEL else ""

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
        name: of the other.
        estimate: its average rank less that of the best.
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
class Cell:
    """A score of one row.

    Attributes:
        mean: over seeds and images.
        std: sample standard deviation over seeds of the runs' means; None with one seed.
        low: lower end of the 95 % interval over seeds and scenes; with one seed over scenes alone.
        high: upper end.
        place: 1 the best, 2 the second, of the losses; else None.
        rank: of its runs among all runs, mean over scenes; for a trivial fusion where it would stand.
    """

    mean: float
    std: float | None
    low: float
    high: float
    place: int | None = None
    rank: float | None = None


@dataclass(frozen=True)
class Row:
    """A loss, or a trivial fusion.

    Attributes:
        name: of the variant.
        trivial: it is the output of no training.
        seeds: of its runs.
        cells: by metric; none where the metric is not defined.
        rank: average rank of its runs among all runs by the verdict set, 1 the best; for a trivial fusion
            where it would stand among them. None with one loss, or where a trivial fusion lacks a score.
        rank_interval: 95 % interval over seeds and scenes.
        first: share of the resamples over seeds and scenes in which its average rank is the best; None where
            there is one training of some loss.
        stable: share of the random halves of the verdict set by which its average rank is the best.
        seconds: of training, mean over its runs; None if a run does not say.
        projected: these are projected from the part after a resume.
        samples_per_second: training samples, validation included in the time.
        memory_mb: largest peak of its runs.
        device: what they ran on.
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


@dataclass(frozen=True)
class Column:
    """A metric: name, direction, decimals to print, images it is taken over and those left out.

    `detectable` is the smallest difference that would have been found clearly with 80 %: the median over the
    differences of the table, None where there are none that can be tested.
    """

    name: str
    higher_is_better: bool
    checked: bool
    decimals: int
    images: int
    left_out: int
    detectable: float | None = None

    @property
    def label(self) -> str:
        """Name, the direction that is better, and a star where nothing published was checked against."""
        return f"{self.name} {'↑' if self.higher_is_better else '↓'}{'' if self.checked else '*'}"


@dataclass(frozen=True)
class Table:
    """A comparison.

    Attributes:
        protocol: of all scores.
        verdict_set: whose families of metrics give the ranks.
        families: those that the runs have, family -> metrics.
        columns: the metrics.
        rows: losses by average rank, then the trivial fusions.
        against: pairs of losses that are tested, (loss, the other it is held against).
        differences: pair -> metric -> difference.
        rivals: the first loss against each other one by ranks, best first; empty with one training of a loss.
        better: share of scenes and pairs of runs, families weighing alike, in which the row's run is better
            than the column's; (rows, rows), half for ties. None with one loss.
        images: test images all runs have.
        scenes: scenes these show.
        effective_scenes: how many scenes of one size would say as much.
        twins: pairs of losses with the same scores to the last bit.
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

    @property
    def losses(self) -> list[Row]:
        """The rows that were trained."""
        return [row for row in self.rows if not row.trivial]

    @property
    def runs(self) -> int:
        """How many trainings are ranked."""
        return sum(len(row.seeds) for row in self.losses)

    @property
    def seeds(self) -> int:
        """Trainings of the loss that has fewest."""
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
