"""`clipfuse compare SWEEP`: which loss wins, by how much, and how certain that is."""

import argparse
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import inf, nan
from pathlib import Path
from typing import Literal

from clipfuse.cli.own import look_in
from clipfuse.cli.sources import as_pictures, as_truth, find_sources, score_trivial
from clipfuse.errors import UserError
from clipfuse.runs.contract import KINDS

FORMATS: tuple[Literal["html", "markdown", "csv", "latex"], ...] = ("html", "markdown", "csv", "latex")
FIGURES: tuple[Literal["svg", "pdf"], ...] = ("svg", "pdf")
VERDICTS = ("balanced", "balanced+machine", "classic")  # the default first


def main(arguments: Sequence[str]) -> None:
    """Read run folders, compute the table, print it with the verdict, and write the files of the options."""
    options = _parse(arguments)
    outputs = {name: Path(path) for name in FORMATS if (path := getattr(options, name))}
    if len({path.resolve() for path in outputs.values()}) < len(outputs):
        raise UserError("two outputs are one file; choose a file for each")

    # Imported late, so that --help does not load scipy and torch.
    from clipfuse.comparison.assemble import assemble, gather
    from clipfuse.comparison.collect import find_runs
    from clipfuse.comparison.formats import to_markdown
    from clipfuse.comparison.insets import draw_insets
    from clipfuse.comparison.machine import find_plain
    from clipfuse.comparison.plan import plan
    from clipfuse.comparison.plots import draw_all
    from clipfuse.comparison.variants import select
    from clipfuse.files import check_output, replace_when_whole, write_atomically

    sweeps = [Path(path) for path in options.sweeps]
    runs, notes = select(find_runs(sweeps), options.partial)
    if not any(run.scores for run in runs):
        print(*notes, sep="\n")
    if options.own:
        look_in(os.getcwd(), options.own)
    plain, unreadable = find_plain(sweeps, runs if options.trivial else [])
    material = gather(
        runs,
        [*notes, *unreadable],
        metrics=_words(options.metrics),
        baseline=options.baseline,
        verdict_set=options.verdict,
        own=options.own,
        mix=_words(options.mix) or (),
        plain=plain,
    )
    variants, protocol = material.variants, material.protocol
    if options.plan is not None:
        seen = material.seen, material.machine
        wanted = _wanted(options.plan)
        print(*plan(variants, protocol, material.metrics, material.baseline, wanted, *seen), sep="\n")
        return
    for path in outputs.values():
        check_output(path, options.overwrite)
    figures = Path(options.figures) if options.figures else None
    sources, missing = find_sources(material.tested)
    if missing:
        material = replace(material, notes=[*material.notes, missing])
    trivial = partial(score_trivial, sources=sources) if sources and options.trivial else None
    found = assemble(material, trivial, as_pictures(sources), options.pool_seeds)
    found = replace(found, truth=as_truth(sources), command=shlex.join(["clipfuse", "compare", *arguments]))
    table = found.numbers
    if figures:
        drawings = [*draw_all(table), draw_insets(table, variants, found.sources)]
        files = {
            figures / f"{each.name}.{kind}": (each, kind)
            for each in drawings
            if each is not None
            for kind in FIGURES
        }
        for path in files:
            check_output(path, options.overwrite)
    for name, path in outputs.items():
        with write_atomically(path, overwrite=options.overwrite) as file:
            file.write(found.text(name))
    if figures:
        for path, (drawing, kind) in files.items():
            with replace_when_whole(path, overwrite=options.overwrite) as temporary:
                drawing.save(temporary, kind)
    print(f"\n{found}")
    for path in outputs.values():
        print(f"written: {path}")
    if figures:
        print(f"written: {len(files)} figures in {figures}")
    if options.wandb:
        from clipfuse.comparison.wandb_report import publish

        text = "\n\n".join([*material.notes, *found.sentences, to_markdown(table)])
        names = ", ".join(Path(path).resolve().name for path in options.sweeps)
        folders = {variant.name: [run.folder for run in variant.runs] for variant in variants}
        curves = {key for run in material.tested for key in run.curves if key.startswith("val/metric/")}
        title = f"clipfuse compare {names}"
        address = publish(options.wandb, title, text, folders, list(material.metrics), sorted(curves))
        print(f"report: {address}")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="clipfuse compare",
        description="Compare the runs of a sweep: scores over seeds with intervals, ranks, tests over seeds "
        "and scenes, the trivial fusions, and a verdict in words. Runs that differ in their seed alone are "
        "one row. Runs with different protocol, data split, budget or optimiser are refused.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "sweeps", nargs="+", metavar="SWEEP", help="folder or zip of a sweep, or a run folder"
    )
    parser.add_argument("--html", metavar="FILE", help="one self-contained page with images and curves")
    parser.add_argument("--markdown", metavar="FILE", help="the table; also what is printed")
    parser.add_argument("--csv", metavar="FILE", help="every number in full precision")
    parser.add_argument("--latex", metavar="FILE", help="the table, losses as rows, with booktabs")
    parser.add_argument(
        "--figures",
        metavar="FOLDER",
        help="each figure as SVG and PDF, also test images with zoomed insets",
    )
    parser.add_argument(
        "--wandb",
        metavar="ENTITY/PROJECT",
        help="save a report at W&B, with the same runs there (needs the extra clipfuse[wandb] and a login)",
    )
    parser.add_argument(
        "--baseline",
        metavar="LOSS",
        help="reference loss that the others are tested against (default: pixel, else the shortest name); "
        "all: each against each, which finds less",
    )
    parser.add_argument(
        "--metrics",
        metavar="NAMES",
        help="metrics of the table: names or the sets fast, full, machine (downstream), joined by commas",
    )
    parser.add_argument(
        "--verdict",
        choices=VERDICTS,
        help="which metrics rank the losses (default: balanced, where the runs have its metrics); "
        "balanced+machine: downstream scores, too",
    )
    parser.add_argument(
        "--pool-seeds",
        action="store_true",
        help="assume one variance of seeds for all losses: finds more, and is wrong if they differ",
    )
    parser.add_argument(
        "--plan",
        nargs="*",
        metavar="METRIC=DIFFERENCE",
        help="number of seeds that a difference needs, from these runs as a pilot; alone: a table",
    )
    parser.add_argument(
        "--own",
        action="append",
        default=[],
        metavar="MODULE.FUNCTION",
        help="a metric of your own that the runs have, as in metrics.own",
    )
    parser.add_argument("--partial", action="store_true", help="include unfinished runs as they are now")
    parser.add_argument(
        "--mix",
        metavar="KINDS",
        default="",
        help=f"kinds of settings in which the runs may differ, with a warning: some of {', '.join(KINDS)}",
    )
    parser.add_argument(
        "--no-trivial",
        dest="trivial",
        action="store_false",
        help="leave out the trivial fusions, to save time",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    options = parser.parse_args(arguments)
    unused = [f"--{name}" for name in (*FORMATS, "figures", "wandb") if getattr(options, name)]
    unused += ["--pool-seeds"] if options.pool_seeds else []
    if options.plan is not None and unused:
        raise UserError(f"--plan prints how many seeds are needed, and nothing else: leave out {unused[0]}")
    return options


def _words(text: str | None) -> list[str] | None:
    """Return the words of a list joined by commas."""
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def _wanted(words: Sequence[str]) -> dict[str, float]:
    wanted = {}
    for word in words:
        name, _, text = word.partition("=")
        if name in wanted:
            raise UserError(f"--plan {word}: {name} is given twice; keep one of them")
        try:
            wanted[name] = float(text)
        except ValueError:
            wanted[name] = nan
        if not 0 < wanted[name] < inf:
            raise UserError(f"--plan {word}: expected METRIC=DIFFERENCE above 0, as in SSIM=0.01")
    return wanted
