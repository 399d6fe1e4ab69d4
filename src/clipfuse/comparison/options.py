"""What a user may choose of a comparison, held against what the runs have."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clipfuse.comparison.collect import Run
from clipfuse.comparison.variants import Variant
from clipfuse.errors import UserError, did_you_mean
from clipfuse.metrics import PROTOCOLS
from clipfuse.metrics.protocols import Protocol
from clipfuse.metrics.verdict import VERDICTS, VerdictSet
from clipfuse.runs.contract import KINDS


@dataclass(frozen=True)
class Options:
    """The options of `clipfuse compare` that decide the numbers.

    Attributes:
        metrics: names or the sets "fast" and "full"; None: all that the runs share.
        baseline: name of the reference loss, which the others are tested against; "all": each against each;
            None: "pixel", else the shortest name.
        verdict: name of the verdict set; None: "balanced" where the runs have its metrics, else "classic".
        pool_seeds: take the variance of seeds to be the same for all losses.
        own: "module.function" of metrics of the user's that the runs have.
        partial: take unfinished runs as far as they are.
        mix: kinds of `clipfuse.runs.contract.KINDS` in which the runs may differ, with a warning.
        trivial: add the trivial fusions, where the test pairs are at hand.
    """

    metrics: Sequence[str] | None = None
    baseline: str | None = None
    verdict: str | None = None
    pool_seeds: bool = False
    own: Sequence[str] = ()
    partial: bool = False
    mix: Sequence[str] = ()
    trivial: bool = True

    def __post_init__(self) -> None:
        for word in self.mix:
            if word not in KINDS:
                raise UserError(
                    f"--mix {word}: expected some of {', '.join(KINDS)}.{did_you_mean(word, KINDS)}"
                )


def choose_protocol(runs: Sequence[Run], own: Sequence[str]) -> tuple[Protocol, list[str]]:
    """Return the protocol of the scores, and notes where they are of an older version of it.

    Of an older version only those metrics are kept whose numbers have not changed since; where versions are
    mixed the oldest counts.

    Raises:
        UserError: this version of ClipFuse does not have that protocol, or a metric of `own` is not found.
    """

    def version_of(run: Run) -> int:
        text = run.protocol.rpartition("-")[2]
        return int(text) if text.isdecimal() else 0

    name = runs[0].protocol.rpartition("-")[0]
    run = min((each for each in runs if each.protocol.rpartition("-")[0] == name), key=version_of)
    found, version = PROTOCOLS.get(name), version_of(run)
    if found is None or not 1 <= version <= found.version:
        known = ", ".join(map(str, PROTOCOLS.values()))
        raise UserError(
            f"{run.folder} was scored under protocol {run.protocol}, this version has {known}; leave it out, "
            "or train it again"
        )
    notes = []
    if version < found.version:
        changed = [metric for metric in found.metrics if found.since.get(metric, 1) > version]
        kept = tuple(metric for metric in found.metrics if metric not in changed)
        dropped = [metric for metric in changed if metric in run.scores]
        notes = [f"The runs were scored under {run.protocol}; this version has {found}."]
        if dropped:
            notes.append(f"Left out, as their definition has changed since: {', '.join(dropped)}.")
        found = replace(found, version=version, metrics=kept)
    try:
        return found.with_own(own), notes
    except ValueError as error:
        raise UserError(f"--own: {error}") from None


def shared_metrics(runs: Sequence[Run], protocol: Protocol) -> list[str]:
    """Return the metrics of the protocol that all runs have."""
    return [name for name in protocol.metrics if all(name in run.scores for run in runs)]


def choose_metrics(runs: Sequence[Run], protocol: Protocol, chosen: Sequence[str] | None) -> list[str]:
    """Return the metrics of the table.

    Raises:
        UserError: a chosen one is unknown, or not all runs have it.
    """
    shared = shared_metrics(runs, protocol)
    try:
        wanted = shared if chosen is None else protocol.choose(chosen)
    except ValueError as error:
        raise UserError(f"--metrics: {error}") from None
    names = [name for name in wanted if name in shared]
    by_name = chosen is not None and not {"fast", "full"} & set(chosen)
    if not names or (by_name and names != wanted):
        missing = ", ".join(name for name in wanted if name not in shared) or "any metric"
        raise UserError(f"not all runs were scored by {missing}; all have {', '.join(shared) or 'none'}")
    return names


def choose_reference(variants: Sequence[Variant], chosen: str | None) -> str:
    """Return the name of the reference loss, or "all".

    Raises:
        UserError: there is no such loss.
    """
    names = [variant.name for variant in variants]
    if chosen is None:
        return "pixel" if "pixel" in names else min(names, key=lambda name: (len(name), name))
    if chosen not in (*names, "all"):
        raise UserError(
            f"--baseline {chosen}: no such loss.{did_you_mean(chosen, names)} There are "
            f"{', '.join(map(repr, names))}"
        )
    return chosen


def choose_verdict_set(
    runs: Sequence[Run], protocol: Protocol, chosen: str | None
) -> tuple[VerdictSet, list[str]]:
    """Return the verdict set, and a note where the default cannot be had.

    Raises:
        UserError: the runs lack metrics of the chosen one, or there is none of this name.
    """
    if chosen is not None and chosen not in VERDICTS:
        raise UserError(f"--verdict {chosen}: expected one of {', '.join(VERDICTS)}")
    wanted = VERDICTS[chosen or "balanced"]
    missing = wanted.missing(shared_metrics(runs, protocol))
    if not missing:
        return wanted, []
    lacking = f"the runs lack metrics of {wanted}: {', '.join(missing)}"
    if chosen:
        raise UserError(
            f"--verdict {chosen}: {lacking}; score them again with this version, or take --verdict classic"
        )
    classic = VERDICTS["classic"]
    return classic, [f"Ranked by {classic}, which can be bought, because {lacking}."]
