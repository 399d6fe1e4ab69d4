"""From run folders to a finished comparison: what the command and `clipfuse.compare` share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from clipfuse.comparison.album import Sources
from clipfuse.comparison.collect import Run, file_notes
from clipfuse.comparison.compute import TrivialScores, build_table, without_repeats
from clipfuse.comparison.facts import facts
from clipfuse.comparison.fairness import check_mixing
from clipfuse.comparison.formats import to_csv, to_latex, to_markdown, to_records
from clipfuse.comparison.judged import Judged
from clipfuse.comparison.machine import Seen, gather_seen
from clipfuse.comparison.overlays import Truth
from clipfuse.comparison.scores import with_lpips
from clipfuse.comparison.table import Table
from clipfuse.comparison.variants import Variant, group, printable
from clipfuse.comparison.verdict import verdict
from clipfuse.errors import UserError, did_you_mean
from clipfuse.files import check_output, write_atomically
from clipfuse.metrics import PROTOCOLS
from clipfuse.metrics.definition import DEFINITIONS
from clipfuse.metrics.protocols import Protocol
from clipfuse.metrics.verdict import VERDICTS, VerdictSet
from clipfuse.runs.contract import KINDS

Format = Literal["html", "markdown", "csv", "latex"]
SUFFIXES: Mapping[str, Format] = {".html": "html", ".md": "markdown", ".csv": "csv", ".tex": "latex"}
ScoreTrivial = Callable[[Sequence[Run], Protocol, Sequence[str]], TrivialScores]


@dataclass(frozen=True)
class Material:
    """Runs that may be compared, and what they are compared by.

    Attributes:
        drawn: the losses with all their runs, also those without scores, whose curves are drawn.
        variants: the losses with the runs that have scores.
        protocol: of the scores.
        metrics: columns of the table.
        baseline: name of the reference loss, or "all".
        verdict_set: the metrics that rank the losses.
        notes: warnings, and what was left out.
        seen: what machines see.
        machine: columns of it that the table has.
    """

    drawn: Sequence[Variant]
    variants: Sequence[Variant]
    protocol: Protocol
    metrics: Sequence[str]
    baseline: str
    verdict_set: VerdictSet
    notes: Sequence[str]
    seen: Sequence[Seen] = ()
    machine: Sequence[str] = ()

    @property
    def tested(self) -> list[Run]:
        """The runs that have scores."""
        return [run for variant in self.variants for run in variant.runs]


@dataclass(frozen=True)
class Comparison:
    """A finished comparison.

    Attributes:
        numbers: every number of the table and the tests.
        sentences: the verdict, sentence by sentence.
        material: the runs that are compared; `material.notes` holds the warnings.
        sources: gives infrared and visible image of a test pair; None where they are missing.
        command: the command line or call that makes this comparison, shown on the HTML page.
        truth: gives the true classes of the pixels of a test pair; None where they are missing.
    """

    numbers: Table
    sentences: Sequence[str]
    material: Material
    sources: Sources | None = None
    command: str = ""
    truth: Truth | None = None

    @property
    def verdict(self) -> str:
        """The verdict in words, a sentence per line."""
        return "\n".join(self.sentences)

    @property
    def table(self) -> list[dict[str, Any]]:
        """One record per row, metric and loss it is tested against; the keys are `formats.CSV_HEAD`.

        Numbers are numbers; a missing one is None.
        """
        return to_records(self.numbers, self.material.notes)

    def __str__(self) -> str:
        """Return the table in Markdown, the warnings and the verdict."""
        known = [f"- {name}: {text}" for name, text in self.facts.items()]
        table = to_markdown(self.numbers)
        answer = [*self.material.notes, *self.sentences]
        return printable("\n".join([f"{table}{chr(10).join(known)}\n", *answer]))

    @property
    def facts(self) -> dict[str, str]:
        """Data, split, scenes, CLIP, protocol, seeds, versions and date, in words."""
        return facts(self.numbers, self.material.variants)

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the comparison as the format that the suffix names: .html, .md, .csv or .tex."""
        path = Path(path)
        if path.suffix not in SUFFIXES:
            raise UserError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}")
        check_output(path, overwrite)
        with write_atomically(path, overwrite=overwrite) as file:
            file.write(self.text(SUFFIXES[path.suffix]))

    def text(self, kind: Format) -> str:
        """Return the comparison as a file of this format holds it."""
        answer = (*self.material.notes, *self.sentences)
        if kind == "csv":
            return to_csv(self.numbers, self.material.notes)
        if kind == "markdown":
            known = "".join(f"- {name}: {text}\n" for name, text in self.facts.items())
            return "".join(f"> {line}\n" for line in answer) + f"\n{to_markdown(self.numbers)}{known}"
        if kind == "latex":
            known = "".join(f"% {name}: {text}\n" for name, text in self.facts.items())
            return "".join(f"% {line}\n" for line in answer) + known + to_latex(self.numbers)
        from clipfuse.comparison.album import album, extremes
        from clipfuse.comparison.overlays import BUDGET, overlays
        from clipfuse.comparison.report import report

        found = extremes(self.numbers, self.material.variants)
        pictures = album(self.numbers, self.material.variants, found, self.sources)
        seen = self.numbers.seen
        tested = self.material.variants
        drawn = [overlays(each, tested, self.sources, self.truth, BUDGET // len(seen)) for each in seen]
        return report(
            self.numbers,
            self.material.drawn,
            self.sentences,
            self.material.notes,
            pictures,
            found,
            self.command,
            drawn,
        )


def gather(
    runs: Sequence[Run],
    notes: Sequence[str] = (),
    *,
    metrics: Sequence[str] | None = None,
    baseline: str | None = None,
    verdict_set: str | None = None,
    own: Sequence[str] = (),
    mix: Sequence[str] = (),
    plain: Mapping[str, Sequence[Judged]] | None = None,
) -> Material:
    """Check that runs may be compared, and choose what they are compared by.

    Args:
        runs: as `select` returns them.
        notes: the notes that `select` returns on the runs that it left out.
        metrics: names or the sets "fast", "full" and "machine"; None: all that the runs share.
        baseline: name of the reference loss; "all" tests each pair; None: pixel, else the shortest name.
        verdict_set: "balanced", "balanced+machine" or "classic"; None: balanced, where the runs have its
            metrics.
        own: metrics of the user that the runs have, such as "my_metric.sharpness".
        mix: kinds of settings in which the runs may differ, with a warning.
        plain: downstream results of sources that no run has made, of `read_plain`.

    Raises:
        UserError: no run has been tested, they do not compare, or a name is not known.
    """
    for word in mix:
        if word not in KINDS:
            raise UserError(f"mix {word}: expected some of {', '.join(KINDS)}.{did_you_mean(word, KINDS)}")
    tested = [run for run in runs if run.scores]
    if not tested:
        raise UserError("no run has been tested yet; wait for the sweep, or name folders of finished runs")
    _check_common(tested)
    notes = [*check_mixing(runs, mix), *file_notes(tested), *notes]
    drawn = group(runs)
    variants, repeats = without_repeats(
        [replace(each, runs=kept) for each in drawn if (kept := tuple(r for r in each.runs if r.scores))]
    )
    protocol, outdated = _protocol(tested, own)
    seen, unlike = gather_seen(variants, plain or {})
    machine, others = _machine(seen, metrics)
    chosen = _metrics(tested, protocol, others) if others != [] else []
    reference = _baseline(variants, baseline)
    verdicts, reason = _verdict_set(verdict_set, [*_shared(tested, protocol), *_columns(seen)])
    notes += [*repeats, *outdated, *reason, *unlike]
    return Material(drawn, variants, protocol, chosen, reference, verdicts, notes, seen, machine)


def _columns(seen: Sequence[Seen]) -> list[str]:
    return [name for each in seen for name in each.columns.values()]


def _machine(seen: Sequence[Seen], chosen: Sequence[str] | None) -> tuple[list[str], Sequence[str] | None]:
    """Return the columns of downstream tasks that are wanted, and the other words of `metrics`."""
    known = _columns(seen)
    if chosen is None:
        return known, None
    if "machine" in chosen and not known:
        raise UserError("metrics: machine: no downstream results of all runs; run clipfuse downstream first")
    wanted = [name for name in known if name in chosen or "machine" in chosen]
    return wanted, [name for name in chosen if name not in (*wanted, "machine")]


def _check_common(runs: Sequence[Run]) -> None:
    common = set(runs[0].scenes)
    for run in runs:
        common &= run.scenes.keys()
        if not common:
            raise UserError(
                f"{runs[0].folder} and {run.folder} have no test image in common with each other and those "
                f"before ({next(iter(runs[0].scenes))}, {next(iter(run.scenes))}, ...), so that there is "
                "nothing to compare: name runs that were tested on the same images"
            )


def assemble(
    material: Material,
    score_trivial: ScoreTrivial | None = None,
    sources: Sources | None = None,
    pool_seeds: bool = False,
) -> Comparison:
    """Compute the table and the verdict.

    Args:
        material: the runs, from `gather`.
        score_trivial: scores the trivial fusions of the test pairs; None leaves them out.
        sources: gives the images of a test pair that are shown beside the fused ones.
        pool_seeds: take the variance of seeds to be the same for all losses.
    """
    trivial = None
    if score_trivial is not None:
        families = material.verdict_set.families(_shared(material.tested, material.protocol))
        ranked = [name for members in families.values() for name in members]
        names = list(dict.fromkeys([*material.metrics, *ranked]))
        try:
            trivial = score_trivial(material.tested, material.protocol, names)
        except (UserError, ValueError) as error:  # of an image that a run folder holds
            note = f"The trivial fusions are missing: {error}."
            material = replace(material, notes=[*material.notes, note])
    table = build_table(
        material.variants,
        material.protocol,
        material.metrics,
        material.baseline,
        trivial,
        material.verdict_set,
        pool_seeds,
        material.seen,
        material.machine,
    )
    return Comparison(table, verdict(table), material, sources)


def _protocol(runs: Sequence[Run], own: Sequence[str]) -> tuple[Protocol, list[str]]:
    """Return the protocol of the scores, and a note where they are of an older version of it.

    Of an older version only those metrics are kept whose numbers have not changed since; where versions are
    mixed the oldest counts.
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
    if any("LPIPS" in each.scores for each in runs) and not found.channels:
        found = with_lpips(found, runs)
    if version < found.version:
        changed = [metric for metric in found.metrics if found.since.get(metric, 1) > version]
        kept = tuple(metric for metric in found.metrics if metric not in changed)
        dropped = [metric for metric in changed if metric in run.scores]
        notes = [f"The runs were scored under {run.protocol}; this version has {found}."]
        if dropped:
            notes.append(f"Left out, as their definition has changed since: {', '.join(dropped)}.")
        ours = [name for name, each in DEFINITIONS.items() if each.kernel.__module__.startswith("clipfuse.")]
        if gone := [each for each in ours if each in run.scores and each not in found.metrics]:
            notes.append(f"Left out, as {found} has them no more: {', '.join(gone)}.")
        found = replace(found, version=version, metrics=kept)
    try:
        return found.with_own(own), notes
    except ValueError as error:
        raise UserError(f"own: {error}") from None


def _shared(runs: Sequence[Run], protocol: Protocol) -> list[str]:
    return [name for name in protocol.metrics if all(name in run.scores for run in runs)]


def _verdict_set(chosen: str | None, available: Sequence[str]) -> tuple[VerdictSet, list[str]]:
    """Return the verdict set, and a note where the default cannot be had."""
    if chosen is not None and chosen not in VERDICTS:
        raise UserError(f"verdict {chosen}: expected one of {', '.join(VERDICTS)}")
    wanted = VERDICTS[chosen or "balanced"]
    missing = wanted.missing(available)
    if not missing:
        return wanted, []
    lacking = f"the runs lack metrics of {wanted}: {', '.join(missing)}"
    if chosen:
        raise UserError(
            f"verdict {chosen}: {lacking}; score them again with this version, or take the verdict classic"
        )
    classic = VERDICTS["classic"]
    return classic, [f"Ranked by {classic}, which can be bought, because {lacking}."]


def _metrics(runs: Sequence[Run], protocol: Protocol, chosen: Sequence[str] | None) -> list[str]:
    shared = _shared(runs, protocol)
    try:
        wanted = shared if chosen is None else protocol.choose(chosen)
    except ValueError as error:
        raise UserError(f"metrics: {error}") from None
    names = [name for name in wanted if name in shared]
    by_name = chosen is not None and not {"fast", "full"} & set(chosen)
    if not names or (by_name and names != wanted):
        missing = ", ".join(name for name in wanted if name not in shared) or "any metric"
        raise UserError(f"not all runs were scored by {missing}; all have {', '.join(shared) or 'none'}")
    return names


def _baseline(variants: Sequence[Variant], chosen: str | None) -> str:
    names: Mapping[str, None] = {variant.name: None for variant in variants}
    if chosen is None:
        return "pixel" if "pixel" in names else min(names, key=lambda name: (len(name), name))
    if chosen not in (*names, "all"):
        raise UserError(
            f"baseline {chosen}: no such loss.{did_you_mean(chosen, names)} There are "
            f"{', '.join(map(repr, names))}"
        )
    return chosen
