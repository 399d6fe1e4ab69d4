"""From run folders to the whole comparison: table, verdict and every file that is written of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from clipfuse.comparison.collect import Run, file_notes, find_runs
from clipfuse.comparison.compute import TrivialScores, build_table, without_repeats
from clipfuse.comparison.fairness import check_mixing
from clipfuse.comparison.formats import to_csv, to_latex, to_markdown
from clipfuse.comparison.insets import inset_picture
from clipfuse.comparison.options import (
    Options,
    choose_metrics,
    choose_protocol,
    choose_reference,
    choose_verdict_set,
    shared_metrics,
)
from clipfuse.comparison.pictures import Sources, album, extremes
from clipfuse.comparison.plots import Picture, pictures_of
from clipfuse.comparison.report import report
from clipfuse.comparison.table import Table
from clipfuse.comparison.variants import Variant, group, select
from clipfuse.comparison.verdict import verdict
from clipfuse.errors import UserError
from clipfuse.files import write_atomically
from clipfuse.metrics.protocols import Protocol
from clipfuse.metrics.verdict import VerdictSet


@dataclass(frozen=True)
class Selection:
    """The runs of a comparison and what has been chosen for it.

    Attributes:
        options: as given.
        drawn: the losses with all their runs, also those without scores.
        variants: the losses with their tested runs; no two trainings of one loss the same.
        protocol: of the scores.
        metrics: columns of the table.
        reference: name of the reference loss, or "all".
        verdict_set: whose metrics rank the runs.
        notes: what a reader must know, one sentence each.
    """

    options: Options
    drawn: Sequence[Variant]
    variants: Sequence[Variant]
    protocol: Protocol
    metrics: Sequence[str]
    reference: str
    verdict_set: VerdictSet
    notes: Sequence[str]

    @property
    def tested(self) -> list[Run]:
        """All runs with scores."""
        return [run for variant in self.variants for run in variant.runs]


@dataclass(frozen=True)
class Pairs:
    """The test pairs of the runs, as far as they are at hand.

    Attributes:
        images: test image -> {"infrared": image, "visible": image}; None if there are none.
        score_trivial: scores of the trivial fusions under a protocol, by metrics' names.
        missing: why there are none, in a sentence; None if there are.
    """

    images: Sources | None = None
    score_trivial: Callable[[Protocol, Sequence[str]], TrivialScores] | None = None
    missing: str | None = None


def read(folders: Sequence[Path], options: Options) -> Selection:
    """Read the runs at or below the folders, and check that a fair table can hold them.

    Raises:
        UserError: there is no tested run, runs differ in what must agree, a file cannot be read, or an
            option does not fit the runs.
    """
    runs, notes = select(find_runs(folders), options.partial)
    tested = [run for run in runs if run.scores]
    if not tested:
        hint = "no run has been tested yet; wait for the sweep, or name folders of finished runs"
        raise UserError("\n".join([hint, *notes]))
    notes = [*check_mixing(runs, options.mix), *file_notes(tested), *notes]
    drawn = group(runs)
    variants, repeats = without_repeats(
        [replace(each, runs=kept) for each in drawn if (kept := tuple(r for r in each.runs if r.scores))]
    )
    protocol, older = choose_protocol(tested, options.own)
    verdict_set, reason = choose_verdict_set(tested, protocol, options.verdict)
    return Selection(
        options,
        drawn,
        variants,
        protocol,
        choose_metrics(tested, protocol, options.metrics),
        choose_reference(variants, options.baseline),
        verdict_set,
        [*notes, *repeats, *older, *reason],
    )


@dataclass(frozen=True)
class Comparison:
    """A comparison of losses: `table` holds the numbers, `verdict` the answer in sentences.

    Attributes:
        selection: the runs, and what was chosen for them.
        table: every number.
        notes: warnings, and what was left out; they belong beside every number.
        pairs: the test pairs.
    """

    selection: Selection
    table: Table
    notes: Sequence[str]
    pairs: Pairs

    @cached_property
    def verdict(self) -> list[str]:
        """The answer in sentences, the winner or the want of one first."""
        return verdict(self.table)

    def markdown(self) -> str:
        """Return notes, verdict and table in Markdown."""
        return self._after_answer(f"\n{to_markdown(self.table)}", "> ")

    def latex(self) -> str:
        """Return the table for LaTeX (booktabs), losses as rows, notes and verdict as comments before it."""
        return self._after_answer(to_latex(self.table), "% ")

    def csv(self) -> str:
        """Return every number in full precision; see `clipfuse.comparison.formats.CSV_HEAD`."""
        return to_csv(self.table, self.notes)

    def html(self, command: str = "clipfuse compare") -> str:
        """Return the self-contained page with images and curves; `command` is printed on it."""
        found = extremes(self.table, self.selection.variants)
        images = album(self.table, self.selection.variants, found, self.pairs.images)
        return report(self.table, self.selection.drawn, self.verdict, self.notes, images, found, command)

    def figures(self) -> list[Picture]:
        """Return each figure that a paper may show, also test images with zoomed insets."""
        insets = inset_picture(self.table, self.selection.variants, self.pairs.images, self.table.images)
        return [*pictures_of(self.table), *([insets] if insets else [])]

    def save(self, path: Path, command: str = "clipfuse compare") -> None:
        """Write the page, see `html`, whole or not at all.

        Raises:
            UserError: it cannot be written.
        """
        with write_atomically(path) as file:
            file.write(self.html(command))

    def _after_answer(self, text: str, comment: str) -> str:
        return "".join(f"{comment}{line}\n" for line in (*self.notes, *self.verdict)) + text


def build(selection: Selection, pairs: Pairs) -> Comparison:
    """Compute every number of a comparison.

    Args:
        selection: of `read`.
        pairs: the test pairs of `selection.tested`.
    """
    chosen = selection
    trivial = None
    if pairs.score_trivial and chosen.options.trivial:
        families = chosen.verdict_set.families(shared_metrics(chosen.tested, chosen.protocol))
        ranked = [name for members in families.values() for name in members]
        trivial = pairs.score_trivial(chosen.protocol, list(dict.fromkeys([*chosen.metrics, *ranked])))
    table = build_table(
        chosen.variants,
        chosen.protocol,
        chosen.metrics,
        chosen.reference,
        trivial,
        chosen.verdict_set,
        chosen.options.pool_seeds,
    )
    return Comparison(chosen, table, [*chosen.notes, *([pairs.missing] if pairs.missing else [])], pairs)
