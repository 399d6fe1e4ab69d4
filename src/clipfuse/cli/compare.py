"""`clipfuse compare SWEEP`: which loss won, by how much, how sure."""

import argparse
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clipfuse.cli.config import look_in
from clipfuse.cli.sources import as_pictures, find_sources, score_trivial
from clipfuse.errors import UserError, did_you_mean
from clipfuse.runs.contract import KINDS

if TYPE_CHECKING:
    from clipfuse.comparison.collect import Run
    from clipfuse.comparison.table import Table
    from clipfuse.comparison.variants import Variant
    from clipfuse.metrics.protocols import Protocol
    from clipfuse.metrics.verdict import VerdictSet

FORMATS = ("html", "markdown", "csv", "latex")
FIGURES: tuple[Literal["svg", "pdf"], ...] = ("svg", "pdf")
VERDICTS = ("balanced", "classic")  # the default first


def main(arguments: Sequence[str]) -> None:
    """Read run folders, compute the table, print it with the verdict, and write what was asked for."""
    options = _parse(arguments)
    outputs = {name: Path(path) for name in FORMATS if (path := getattr(options, name))}
    if len({path.resolve() for path in outputs.values()}) < len(outputs):
        raise UserError("two outputs are one file; choose a file for each")

    # Imported late: --help must not wait for scipy and torch.
    from clipfuse.comparison.collect import file_notes, find_runs
    from clipfuse.comparison.compute import build_table, without_repeats
    from clipfuse.comparison.fairness import check_mixing
    from clipfuse.comparison.formats import to_csv, to_latex, to_markdown
    from clipfuse.comparison.insets import inset_picture
    from clipfuse.comparison.plan import plan
    from clipfuse.comparison.plots import pictures_of
    from clipfuse.comparison.variants import group, select
    from clipfuse.comparison.verdict import verdict
    from clipfuse.files import check_output, replace_when_whole, write_atomically

    mixed = _words("--mix", options.mix, KINDS)
    runs, notes = select(find_runs([Path(path) for path in options.sweeps]), options.partial)
    tested = [run for run in runs if run.scores]
    if not tested:
        print(*notes, sep="\n")
        raise UserError("no run has been tested yet; wait for the sweep, or name folders of finished runs")
    notes = [*check_mixing(runs, mixed), *file_notes(tested), *notes]
    drawn = group(runs)
    variants, repeats = without_repeats(
        [replace(each, runs=kept) for each in drawn if (kept := tuple(r for r in each.runs if r.scores))]
    )
    protocol, told = _protocol(tested, options.own)
    metrics = _metrics(tested, protocol, options.metrics)
    baseline = _baseline(variants, options.baseline)
    if options.plan is not None:
        print(*plan(variants, protocol, metrics, baseline, _wanted(options.plan)), sep="\n")
        return
    verdict_set, reason = _verdict_set(options.verdict, tested, protocol)
    notes += [*repeats, *told, *reason]
    for path in outputs.values():
        check_output(path, options.overwrite)
    figures = Path(options.figures) if options.figures else None
    sources, missing = find_sources(tested)
    if missing:
        notes.append(missing)
    trivial = None
    if sources and options.trivial:
        families = verdict_set.families(_shared(tested, protocol))
        ranked = [name for members in families.values() for name in members]
        trivial = score_trivial(tested, sources, protocol, list(dict.fromkeys([*metrics, *ranked])))
    table = build_table(variants, protocol, metrics, baseline, trivial, verdict_set, options.pool_seeds)
    sentences = verdict(table)
    if figures:
        drawings = [*pictures_of(table), inset_picture(table, variants, as_pictures(sources), table.images)]
        files = {
            figures / f"{each.name}.{kind}": (each, kind)
            for each in drawings
            if each is not None
            for kind in FIGURES
        }
        for path in files:
            check_output(path, options.overwrite)
    print(f"\n{to_markdown(table)}")
    print(*notes, *sentences, sep="\n")

    def with_answer(text: str, comment: str) -> str:
        """Put the verdict and its warnings before a table that is written without a page around it."""
        return "".join(f"{comment}{line}\n" for line in (*notes, *sentences)) + text

    def to_html(table: "Table") -> str:
        from clipfuse.comparison.pictures import album, extremes
        from clipfuse.comparison.report import report

        found = extremes(table, variants)
        pictures = album(table, variants, found, as_pictures(sources))
        command = shlex.join(["clipfuse", "compare", *arguments])
        return report(table, drawn, sentences, notes, pictures, found, command)

    writers: dict[str, Callable[[Table], str]] = {
        "html": to_html,
        "markdown": lambda table: with_answer(f"\n{to_markdown(table)}", "> "),
        "csv": lambda table: to_csv(table, notes),
        "latex": lambda table: with_answer(to_latex(table), "% "),
    }
    for name, path in outputs.items():
        with write_atomically(path) as file:
            file.write(writers[name](table))
        print(f"written: {path}")
    if figures:
        for path, (picture, kind) in files.items():
            with replace_when_whole(path) as temporary:
                picture.save(temporary, kind)
        print(f"written: {len(files)} figures in {figures}")
    if options.wandb:
        from clipfuse.comparison.wandb_report import publish

        text = "\n\n".join([*notes, *sentences, to_markdown(table)])
        names = ", ".join(Path(path).resolve().name for path in options.sweeps)
        folders = {variant.name: [run.folder for run in variant.runs] for variant in variants}
        curves = {key for run in tested for key in run.curves if key.startswith("val/metric/")}
        title = f"clipfuse compare {names}"
        address = publish(options.wandb, title, text, folders, metrics, sorted(curves))
        print(f"report: {address}")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="clipfuse compare",
        description="Compare the runs of a sweep: scores over seeds with intervals, ranks, tests over seeds "
        "and scenes, the trivial fusions, and a verdict in words. Runs that differ in their seed alone are "
        "one row. Runs that no fair table can hold together are refused.",
        allow_abbrev=False,
    )
    parser.add_argument("sweeps", nargs="+", metavar="SWEEP", help="folder of a sweep, or a run folder")
    parser.add_argument("--html", metavar="FILE", help="one self-contained page with pictures and curves")
    parser.add_argument("--markdown", metavar="FILE", help="the table; also what is printed")
    parser.add_argument("--csv", metavar="FILE", help="every number in full precision")
    parser.add_argument("--latex", metavar="FILE", help="the table, losses as rows, with booktabs")
    parser.add_argument(
        "--figures",
        metavar="FOLDER",
        help="each figure as SVG and PDF, also test pictures with zoomed insets",
    )
    parser.add_argument(
        "--wandb",
        metavar="ENTITY/PROJECT",
        help="save a report at W&B, over the same runs there (needs the extra clipfuse[wandb] and a login)",
    )
    parser.add_argument(
        "--baseline",
        metavar="LOSS",
        help="what the others are tested against (default: pixel, else the shortest name); all: each against "
        "each, which costs power",
    )
    parser.add_argument(
        "--metrics", metavar="NAMES", help="of the table: names or the sets fast, full, joined by commas"
    )
    parser.add_argument(
        "--verdict",
        choices=VERDICTS,
        help="which metrics rank the losses (default: balanced, where the runs have its metrics)",
    )
    parser.add_argument(
        "--pool-seeds",
        action="store_true",
        help="take the variance of seeds to be the same for all losses: more power, wrong where it is not",
    )
    parser.add_argument(
        "--plan",
        nargs="*",
        metavar="METRIC=DIFFERENCE",
        help="how many seeds a difference needs, from these runs as a pilot; without one: a table",
    )
    parser.add_argument(
        "--own",
        action="append",
        default=[],
        metavar="MODULE.FUNCTION",
        help="a metric of yours that the runs have, as in metrics.own",
    )
    parser.add_argument("--partial", action="store_true", help="take unfinished runs as far as they are")
    parser.add_argument(
        "--mix",
        metavar="KINDS",
        default="",
        help=f"let runs differ in what must agree, with a warning: some of {', '.join(KINDS)}",
    )
    parser.add_argument(
        "--no-trivial",
        dest="trivial",
        action="store_false",
        help="leave out the trivial fusions, to save time",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    return parser.parse_args(arguments)


def _words(option: str, text: str, known: Sequence[str]) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in known:
            raise UserError(
                f"{option} {word}: expected some of {', '.join(known)}.{did_you_mean(word, known)}"
            )
    return words


def _wanted(words: Sequence[str]) -> dict[str, float]:
    wanted = {}
    for word in words:
        name, _, text = word.partition("=")
        try:
            wanted[name] = float(text)
        except ValueError:
            wanted[name] = nan
        if not 0 < wanted[name] < inf:
            raise UserError(f"--plan {word}: expected METRIC=DIFFERENCE above 0, as in SSIM=0.01")
    return wanted


def _protocol(runs: Sequence["Run"], own: Sequence[str]) -> tuple["Protocol", list[str]]:
    """Return the protocol of the scores, and a note where they are of an older version of it.

    Of an older version only those metrics are kept whose numbers have not changed since; where versions are
    mixed the oldest counts.
    """
    from clipfuse.metrics import PROTOCOLS

    def version_of(run: "Run") -> int:
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
    if own:
        look_in(os.getcwd())
    try:
        return found.with_own(own), notes
    except ValueError as error:
        raise UserError(f"--own: {error}") from None


def _shared(runs: Sequence["Run"], protocol: "Protocol") -> list[str]:
    return [name for name in protocol.metrics if all(name in run.scores for run in runs)]


def _verdict_set(
    chosen: str | None, runs: Sequence["Run"], protocol: "Protocol"
) -> tuple["VerdictSet", list[str]]:
    """Return the verdict set, and a note where the default cannot be had."""
    from clipfuse.metrics.verdict import VERDICTS as SETS

    wanted = SETS[chosen or VERDICTS[0]]
    missing = wanted.missing(_shared(runs, protocol))
    if not missing:
        return wanted, []
    lacking = f"the runs lack metrics of {wanted}: {', '.join(missing)}"
    if chosen:
        raise UserError(
            f"--verdict {chosen}: {lacking}; score them again with this version, or take --verdict classic"
        )
    classic = SETS["classic"]
    return classic, [f"Ranked by {classic}, which can be bought, because {lacking}."]


def _metrics(runs: Sequence["Run"], protocol: "Protocol", chosen: str | None) -> list[str]:
    shared = _shared(runs, protocol)
    if chosen is None:
        wanted = shared
    else:
        try:
            wanted = protocol.choose([word.strip() for word in chosen.split(",") if word.strip()])
        except ValueError as error:
            raise UserError(f"--metrics: {error}") from None
    names = [name for name in wanted if name in shared]
    if not names or (
        chosen is not None and "fast" not in chosen and "full" not in chosen and names != wanted
    ):
        missing = ", ".join(name for name in wanted if name not in shared) or "any metric"
        raise UserError(f"not all runs were scored by {missing}; all have {', '.join(shared) or 'none'}")
    return names


def _baseline(variants: Sequence["Variant"], chosen: str | None) -> str:
    names = [variant.name for variant in variants]
    if chosen is None:
        return "pixel" if "pixel" in names else min(names, key=lambda name: (len(name), name))
    if chosen not in (*names, "all"):
        raise UserError(
            f"--baseline {chosen}: no such loss.{did_you_mean(chosen, names)} There are "
            f"{', '.join(map(repr, names))}"
        )
    return chosen
