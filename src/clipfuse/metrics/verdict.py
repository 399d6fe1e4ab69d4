"""Verdict sets: by which metrics methods are ranked, in families of one vote each.

A rank is the mean over families of the mean over a family's metrics; so metrics that measure the same have
one vote together. Which fusions each metric rewards: experiments/metrics_on_trial.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "information": ("kept-information",),
    "structure": ("kept-structure",),
    "detail": ("local-detail",),
    "artifacts": ("clean-detail",),
    "targets": ("kept-targets",),
}
# Scores of downstream tasks, of which runs may have any. They make a set of their own, not a family of
# `balanced`, whose rankings would then change by what else has been computed of the same runs.
DOWNSTREAM = ("mIoU", "mAP", "mIoU (frozen)", "mAP (frozen)")
# Our own, and no part of the literature's tables; and LPIPS, which few have, and a copy of a source wins.
NOT_CLASSIC = frozenset(
    ("LPIPS", "target-contrast", "noise", *(name for names in FAMILIES.values() for name in names))
)


@dataclass(frozen=True)
class VerdictSet:
    """A named and versioned set of metrics to rank by.

    Attributes:
        name: short name.
        version: raised whenever a ranking it gives may change.
        summary: what it is, in one line.
        members: family -> names of its metrics; empty where every classic metric is a family of its own.
        optional: families that a data set may lack, such as targets without masks.
    """

    name: str
    version: int
    summary: str
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()

    def __str__(self) -> str:
        """Return name and version as a verdict carries them, such as "balanced-1"."""
        return f"{self.name}-{self.version}"

    def families(self, available: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Return family -> metrics, of the metrics available; a family without any is left out.

        Args:
            available: names of metrics that all methods have scores of, in the order of the tables.
        """
        names = list(dict.fromkeys(available))
        if not self.members:
            return {name: (name,) for name in names if name not in NOT_CLASSIC}
        found = {
            family: tuple(name for name in members if name in names)
            for family, members in self.members.items()
        }
        return {family: members for family, members in found.items() if members}

    def missing(self, available: Iterable[str]) -> list[str]:
        """Return the metrics that are not available, less those of optional families."""
        names = set(available)
        needed = {each: members for each, members in self.members.items() if each not in self.optional}
        if names & {*needed.get("downstream", ())}:
            del needed["downstream"]  # of the tasks any will do
        return [name for members in needed.values() for name in members if name not in names]


BALANCED = VerdictSet(
    name="balanced",
    version=1,
    summary="own design: what is kept of the poorer kept band; a copy, a stretch, sharpening or noise loses",
    members=FAMILIES,
    optional=frozenset(("targets",)),
)
BALANCED_MACHINE = VerdictSet(
    name="balanced+machine",
    version=1,
    summary="balanced-1 and a sixth family: how well a downstream task works on the fused images",
    members={**FAMILIES, "downstream": DOWNSTREAM},
    optional=frozenset(("targets",)),
)
CLASSIC = VerdictSet(
    name="classic",
    version=1,
    summary="one vote for every published metric; many measure the same, and degenerate fusions win by them",
)
# Eight scores of CDDFuse's kind of table that no copy of a source wins: of the board alone, not of `compare`.
EIGHT = ("EN", "SD", "SF", "AG", "SCD", "VIF", "Qabf", "SSIM")
CLASSIC_EIGHT = VerdictSet(
    name="classic-eight",
    version=1,
    summary="one vote for each of eight published metrics; stretched contrast and sharpening win by it",
    members={name: (name,) for name in EIGHT},
)
VERDICTS: Mapping[str, VerdictSet] = {
    verdict.name: verdict for verdict in (BALANCED, BALANCED_MACHINE, CLASSIC)
}
