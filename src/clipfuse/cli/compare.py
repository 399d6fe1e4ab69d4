"""`clipfuse compare SWEEP`: which loss won, by how much, how sure."""

import argparse
import os
import shlex
from collections.abc import Callable, Sequence
from math import inf, nan
from pathlib import Path
from typing import Literal

from clipfuse.cli.config import look_in
from clipfuse.cli.sources import find_pairs
from clipfuse.errors import UserError
from clipfuse.runs.contract import KINDS

FORMATS = ("html", "markdown", "csv", "latex")
FIGURES: tuple[Literal["svg", "pdf"], ...] = ("svg", "pdf")
PASSED_ON = ("baseline", "verdict", "pool_seeds", "own", "partial", "trivial")


def main(arguments: Sequence[str]) -> None:
    """Read run folders, compute the table, print it with the verdict, and write what was asked for."""
    options = _parse(arguments)
    outputs = {name: Path(path) for name in FORMATS if (path := getattr(options, name))}
    if len({path.resolve() for path in outputs.values()}) < len(outputs):
        raise UserError("two outputs are one file; choose a file for each")
    if options.own:
        look_in(os.getcwd())

    # Imported late: --help must not wait for scipy and torch.
    from clipfuse.comparison.build import build, read
    from clipfuse.comparison.formats import to_markdown
    from clipfuse.comparison.options import Options
    from clipfuse.comparison.plan import plan
    from clipfuse.files import check_output, replace_when_whole, write_atomically

    selection = read(
        [Path(path) for path in options.sweeps],
        Options(
            metrics=None if options.metrics is None else _words(options.metrics),
            mix=_words(options.mix),
            **{name: getattr(options, name) for name in PASSED_ON},
        ),
    )
    if options.plan is not None:
        wanted = _wanted(options.plan)
        chosen = (selection.variants, selection.protocol, selection.metrics, selection.reference)
        print(*plan(*chosen, wanted), sep="\n")
        return
    for path in outputs.values():
        check_output(path, options.overwrite)
    comparison = build(selection, find_pairs(selection.tested))
    files = {}
    if options.figures:
        drawings = {each.name: each for each in comparison.figures()}
        files = {
            Path(options.figures) / f"{name}.{kind}": (each, kind)
            for name, each in drawings.items()
            for kind in FIGURES
        }
    for path in files:
        check_output(path, options.overwrite)
    print(f"\n{to_markdown(comparison.table)}")
    print(*comparison.notes, *comparison.verdict, sep="\n")
    command = shlex.join(["clipfuse", "compare", *arguments])
    writers: dict[str, Callable[[], str]] = {
        "html": lambda: comparison.html(command),
        "markdown": comparison.markdown,
        "csv": comparison.csv,
        "latex": comparison.latex,
    }
    for name, path in outputs.items():
        with write_atomically(path) as file:
            file.write(writers[name]())
        print(f"written: {path}")
    for path, (drawing, kind) in files.items():
        with replace_when_whole(path) as temporary:
            drawing.save(temporary, kind)
    if files:
        print(f"written: {len(files)} figures in {options.figures}")
    if options.wandb:
        from clipfuse.comparison.wandb_report import publish

        text = "\n\n".join([*comparison.notes, *comparison.verdict, to_markdown(comparison.table)])
        names = ", ".join(Path(path).resolve().name for path in options.sweeps)
        folders = {each.name: [run.folder for run in each.runs] for each in selection.variants}
        curves = {key for run in selection.tested for key in run.curves if key.startswith("val/metric/")}
        title = f"clipfuse compare {names}"
        address = publish(options.wandb, title, text, folders, selection.metrics, sorted(curves))
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
        choices=("balanced", "classic"),
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


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


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
