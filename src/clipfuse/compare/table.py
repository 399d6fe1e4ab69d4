"""The one table of a comparison, from which every format is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from clipfuse.metrics.protocols import Protocol

ALPHA = 0.05


@dataclass(frozen=True)
class Difference:
    """How a variant's score differs from the baseline's.

    Attributes:
        mean: its mean less the baseline's.
        low: lower end of its 95 % interval over seeds and scenes.
        high: upper end.
        p: of Wilcoxon's signed-rank test over images, scores averaged over seeds, Holm-corrected over
            all tests of the table.
        effect: matched-pairs rank-biserial correlation, above 0 where the variant is the better one.
    """

    mean: float
    low: float
    high: float
    p: float
    effect: float

    @property
    def better(self) -> int:
        """1 or -1 where the variant is clearly better or worse, else 0.

        Both must say so: the test, which sees images alone, and the interval, which sees seeds and scenes.
        """
        sure = self.p < ALPHA and (self.low > 0 or self.high < 0)
        return (1 if self.effect > 0 else -1) if sure and self.effect else 0


@dataclass(frozen=True)
class Cell:
    """A score of one row.

    Attributes:
        mean: over seeds and images.
        std: sample standard deviation over seeds of the runs' means; None with one seed.
        low: lower end of the 95 % interval over seeds and scenes.
        high: upper end.
        place: 1 the best, 2 the second, of the losses; else None.
        rank: mean over scenes of the rank in each; None for a trivial fusion.
        against: the difference from the baseline; None for the baseline itself and trivial fusions.
    """

    mean: float
    std: float | None
    low: float
    high: float
    place: int | None = None
    rank: float | None = None
    against: Difference | None = None


@dataclass(frozen=True)
class Row:
    """A loss, or a trivial fusion.

    Attributes:
        name: of the variant.
        trivial: it is the output of no training.
        seeds: of its runs.
        cells: by metric; none where the metric is not defined.
        rank: average rank over metrics and scenes, 1 the best; None with one variant, and for trivial rows.
        rank_interval: 95 % interval over seeds and scenes.
        first: share of the resamples in which its average rank is the best.
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
    seconds: float | None = None
    projected: bool = False
    samples_per_second: float | None = None
    memory_mb: float | None = None
    device: str = ""


@dataclass(frozen=True)
class Column:
    """A metric: name, direction, decimals to print, images it is taken over and those left out."""

    name: str
    higher_is_better: bool
    checked: bool
    decimals: int
    images: int
    left_out: int

    @property
    def label(self) -> str:
        """Name, the direction that is better, and a star where nothing published was checked against."""
        return f"{self.name} {'↑' if self.higher_is_better else '↓'}{'' if self.checked else '*'}"


@dataclass(frozen=True)
class Table:
    """A comparison.

    Attributes:
        protocol: of all scores.
        columns: the metrics.
        rows: losses by average rank, then the trivial fusions.
        baseline: the loss the others are tested against.
        images: test images all runs have.
        scenes: scenes these show.
        critical_difference: of average ranks by Nemenyi's test; None below three variants.
        friedman: p-value of Friedman's test; None below three variants.
        tests: number of tests that Holm's correction counts.
    """

    protocol: Protocol
    columns: Sequence[Column]
    rows: Sequence[Row]
    baseline: str
    images: Sequence[str]
    scenes: int
    critical_difference: float | None
    friedman: float | None
    tests: int

    @property
    def losses(self) -> list[Row]:
        """The rows that were trained."""
        return [row for row in self.rows if not row.trivial]
