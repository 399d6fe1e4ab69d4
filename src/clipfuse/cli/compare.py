"""`clipfuse compare SWEEP`: which loss won, by how much, how sure."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from clipfuse.cli.config import look_in
from clipfuse.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from clipfuse.compare.collect import Run
    from clipfuse.compare.compute import TrivialScores
    from clipfuse.compare.pictures import Sources as PictureSources
    from clipfuse.compare.table import Table
    from clipfuse.compare.variants import Variant
    from clipfuse.metrics.protocols import Protocol

    Sources = Callable[[str], dict[str, Tensor | None]]

KINDS = ("protocol", "split", "budget")
FORMATS = ("html", "markdown", "csv", "latex")


def main(arguments: Sequence[str]) -> None:
    """Read run folders, compute the table, print it with the verdict, and write what was asked for."""
    options = _parse(arguments)
    outputs = {name: Path(path) for name in FORMATS if (path := getattr(options, name))}
    if len({path.resolve() for path in outputs.values()}) < len(outputs):
        raise UserError("two outputs are one file; choose a file for each")

    # Imported late: --help must not wait for scipy and torch.
    from clipfuse.compare.collect import find_runs
    from clipfuse.compare.compute import build_table
    from clipfuse.compare.formats import to_csv, to_latex, to_markdown
    from clipfuse.compare.variants import check_mixing, group, select
    from clipfuse.compare.verdict import verdict
    from clipfuse.engine.folder import check_output, write_atomically

    mixed = _words("--mix", options.mix, KINDS)
    runs, notes = select(find_runs([Path(path) for path in options.sweeps]), options.partial)
    tested = [run for run in runs if run.scores]
    if not tested:
        print(*notes, sep="\n")
        raise UserError("no run has been tested yet; wait for the sweep, or name folders of finished runs")
    notes = [*check_mixing(runs, mixed), *notes]
    drawn = group(runs)
    variants = [
        replace(each, runs=kept) for each in drawn if (kept := tuple(r for r in each.runs if r.scores))
    ]
    protocol = _protocol(tested[0], options.own)
    metrics = _metrics(tested, protocol, options.metrics)
    baseline = _baseline(variants, options.baseline)
    for path in outputs.values():
        check_output(path, options.overwrite)
    sources, reason = _sources(tested)
    if reason:
        notes.append(reason)
    trivial = _trivial(tested, sources, protocol, metrics) if sources and options.trivial else None
    table = build_table(variants, protocol, metrics, baseline, trivial)
    print(f"\n{to_markdown(table)}")
    sentences = verdict(table)
    print(*notes, *sentences, sep="\n")

    def to_html(table: "Table") -> str:
        from clipfuse.compare.pictures import album, extremes
        from clipfuse.compare.report import report

        found = extremes(table, variants)
        pictures = album(table, variants, found, sources and _as_pictures(sources))
        command = shlex.join(["clipfuse", "compare", *arguments])
        return report(table, drawn, sentences, notes, pictures, found, command)

    writers = {"html": to_html, "markdown": to_markdown, "csv": to_csv, "latex": to_latex}
    for name, path in outputs.items():
        with write_atomically(path) as file:
            file.write(writers[name](table))
        print(f"written: {path}")
    if options.wandb:
        from clipfuse.compare.wandb_report import publish

        text = "\n\n".join([*sentences, to_markdown(table), *notes])
        names = ", ".join(Path(path).resolve().name for path in options.sweeps)
        folders = {variant.name: [run.folder for run in variant.runs] for variant in variants}
        curves = {key for run in tested for key in run.curves if key.startswith("val/metric/")}
        title = f"clipfuse compare {names}"
        address = publish(options.wandb, title, text, folders, metrics, sorted(curves))
        print(f"report: {address}")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="clipfuse compare",
        description="Compare the runs of a sweep: scores over seeds with intervals, ranks, paired tests "
        "against a baseline, the trivial fusions, and a verdict in words. Runs that differ in their seed "
        "alone are one row. Runs that no fair table can hold together are refused.",
        allow_abbrev=False,
    )
    parser.add_argument("sweeps", nargs="+", metavar="SWEEP", help="folder of a sweep, or a run folder")
    parser.add_argument("--html", metavar="FILE", help="one self-contained page with pictures and curves")
    parser.add_argument("--markdown", metavar="FILE", help="the table; also what is printed")
    parser.add_argument("--csv", metavar="FILE", help="every number in full precision")
    parser.add_argument("--latex", metavar="FILE", help="the table, with booktabs")
    parser.add_argument(
        "--wandb",
        metavar="ENTITY/PROJECT",
        help="save a report at W&B, over the same runs there (needs the extra clipfuse[wandb] and a login)",
    )
    parser.add_argument(
        "--baseline",
        metavar="LOSS",
        help="what the others are tested against (default: pixel, else the shortest name)",
    )
    parser.add_argument("--metrics", metavar="NAMES", help="names or the sets fast, full, joined by commas")
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
        help=f"let runs differ in some of {', '.join(KINDS)}, with a warning",
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


def _protocol(run: "Run", own: Sequence[str]) -> "Protocol":
    from clipfuse.metrics import PROTOCOLS

    found = PROTOCOLS.get(run.protocol.rpartition("-")[0])
    if found is None or str(found) != run.protocol:
        known = ", ".join(map(str, PROTOCOLS.values()))
        raise UserError(
            f"{run.folder} was scored under protocol {run.protocol}, this version has {known}; leave it out, "
            "or train it again"
        )
    if own:
        look_in(os.getcwd())
    try:
        return found.with_own(own)
    except ValueError as error:
        raise UserError(f"--own: {error}") from None


def _metrics(runs: Sequence["Run"], protocol: "Protocol", chosen: str | None) -> list[str]:
    shared = [name for name in protocol.metrics if all(name in run.scores for run in runs)]
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
    if chosen not in names:
        raise UserError(
            f"--baseline {chosen}: no such loss.{did_you_mean(chosen, names)} There are "
            f"{', '.join(map(repr, names))}"
        )
    return chosen


def _sources(runs: Sequence["Run"]) -> tuple["Sources | None", str | None]:
    """Find the test pairs: the data set of the runs if it is here, else pictures that a run has saved."""
    from clipfuse.data.transforms import whole
    from clipfuse.engine.build import build, check_targets
    from clipfuse.images import read_image
    from clipfuse.ops.color import rgb_to_luma_chroma
    from clipfuse.ops.depth import to_unit

    run = runs[0]
    try:
        check_targets(run.config["data"], ("clipfuse.data",), run.folder / "config.yaml")
        source = build(run.config["data"], "data")
        names = getattr(source, "names_fingerprint", source.fingerprint)
        if (source.fingerprint if run.knows_content else names)() == run.split:
            return lambda image: whole(source.load(image)), None
        problem = "the data set has changed since"
    except UserError as error:
        problem = str(error)
    saved = next((r.folder / "test" for r in runs if (r.folder / "test/infrared").is_dir()), None)
    if saved is None:
        return (
            None,
            f"The trivial fusions and the sources are missing, for want of the test pairs ({problem}).",
        )

    def read(image: str) -> "dict[str, Tensor | None]":
        planes = {
            kind: to_unit(read_image(saved / kind / f"{image}.png")) for kind in ("infrared", "visible")
        }
        luma, chroma = rgb_to_luma_chroma(planes["visible"])
        mask = saved / "masks" / f"{image}.png"
        target = to_unit(read_image(mask)) > 0.5 if mask.is_file() else None
        return {"infrared": planes["infrared"], "visible": luma, "chroma": chroma, "target_mask": target}

    return read, None


def _as_pictures(sources: "Sources") -> "PictureSources":
    from clipfuse.engine.pictures import to_picture
    from clipfuse.ops.color import luma_chroma_to_rgb

    def pictures(image: str) -> "dict[str, Image]":
        planes = sources(image)
        infrared, visible, chroma = (planes[key] for key in ("infrared", "visible", "chroma"))
        assert infrared is not None
        assert visible is not None
        assert chroma is not None
        return {"infrared": to_picture(infrared), "visible": to_picture(luma_chroma_to_rgb(visible, chroma))}

    return pictures


def _trivial(
    runs: Sequence["Run"], sources: "Sources", protocol: "Protocol", names: Sequence[str]
) -> "TrivialScores":
    """Score the trivial fusions of the test pairs."""
    from tqdm import tqdm

    from clipfuse.metrics import FusionMetrics, baselines

    metrics = FusionMetrics(protocol, names)
    images = [image for image in runs[0].scenes if all(image in run.scenes for run in runs)]
    scores: dict[str, dict[str, dict[str, float]]] = {}
    quiet = not sys.stderr.isatty()
    for image in tqdm(images, desc="scoring trivial fusions", unit="image", disable=quiet):
        planes = {key: None if plane is None else plane[None] for key, plane in sources(image).items()}
        infrared, visible, mask = planes["infrared"], planes["visible"], planes.get("target_mask")
        assert infrared is not None
        assert visible is not None
        rows = metrics.score_all(baselines(infrared, visible), infrared, visible, mask)
        for name, row in rows.items():
            for metric, value in row.items():
                scores.setdefault(name, {}).setdefault(metric, {})[image] = value
    return scores
