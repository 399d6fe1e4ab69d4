"""Verdict sets: which metrics decide a comparison, in families of one vote each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class VerdictSet:
    """A named and versioned choice of metrics.

    Attributes:
        name: short name.
        version: raised whenever a verdict by it may change.
        summary: what it is, in one line.
        members: family -> its metrics; each family has one vote. Empty: each metric at hand is a family.
        optional: families that a data set may lack, as that of targets where there are no masks.
    """

    name: str
    version: int
    summary: str
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()

    def __str__(self) -> str:
        """Return name and version, such as "balanced-1"."""
        return f"{self.name}-{self.version}"

    def families(self, available: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Return the families with those of their metrics that are available; none without any."""
        names = list(available)
        if not self.members:
            return {name: (name,) for name in names}
        found = {
            family: tuple(name for name in members if name in names)
            for family, members in self.members.items()
        }
        return {family: members for family, members in found.items() if members}

    def missing(self, available: Iterable[str]) -> list[str]:
        """Return the metrics that are not available, less those of optional families."""
        names = list(available)
        needed = [
            name
            for family, members in self.members.items()
            if family not in self.optional
            for name in members
        ]
        return [name for name in needed if name not in names]


BALANCED = VerdictSet("balanced", 1, "", {"none": ("none",)})
CLASSIC = VerdictSet("classic", 1, "the usual metrics, one vote each; copies and sharpening win by them")
VERDICTS = {each.name: each for each in (BALANCED, CLASSIC)}
