"""`clipfuse score --fused D --infrared D --visible D`: score the fused images of any method."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from clipfuse.cli.fuse import PAIRS_HELP
from clipfuse.cli.stated import Stated, add_stated
from clipfuse.cli.value_range import add_range, given_ranges
from clipfuse.errors import UserError

if TYPE_CHECKING:
    from clipfuse.cli.scored import Metrics, Scores
    from clipfuse.metrics.protocols import Protocol
    from clipfuse.metrics.scoring import Scorer


def main(arguments: Sequence[str]) -> None:
    """Score every folder under one protocol; print a table, and write the files that were named.

    With `--protocol` as the last word it lists the protocols instead, with `--explain` it explains a table.
    """
    if arguments[-1:] == ["--protocol"]:
        from clipfuse.metrics.protocols import protocol_listing

        print(protocol_listing())
        return
    options = _parse(arguments)
    fused = _folders(options.fused)
    stated = Stated.of(options, list(fused))
    outputs = [Path(name) for name in (options.out, options.html) if name] + stated.files()
    twice = next(
        (path for path in outputs if [each.resolve() for each in outputs].count(path.resolve()) > 1), None
    )
    if twice is not None:
        labels = ", or labels of --fused that differ in letters or digits" if stated.folder else ""
        raise UserError(f"two of --out, --json and --html are {twice}; choose a file for each{labels}")

    # Imported late: --help must not wait for torch.
    from clipfuse.cli.explain import explanation
    from clipfuse.cli.kept import check_kept, check_scores, find_kept
    from clipfuse.cli.scored import Job, Metrics, find_files, score_images
    from clipfuse.data.masks import parse_classes
    from clipfuse.files import check_output
    from clipfuse.images import check_ranges

    chosen = tuple(name.strip() for name in options.metrics.split(",") if name.strip())
    wanted = Metrics(options.protocol or "strict", chosen, tuple(options.own), options.lpips_weights)
    metrics = _checked(wanted, bool(options.masks)).scorer()
    classes = parse_classes(options.mask_classes, "--mask-classes")
    masks = Path(options.masks) if options.masks else None
    folders = Path(options.infrared), Path(options.visible)
    files, found, left_out, scenes = find_files(*folders, options.pairs, masks, classes, fused)
    sources = ["infrared", "visible", *(["masks"] if masks else [])]
    ranges = given_ranges(options.range)
    check_ranges(list(files.values()), ranges, "--range={},{}")
    job = Job((*sources, *fused), classes, ranges, (wanted,), options.trivial)
    if options.explain:

        def score(scorers: Sequence["Scorer"]) -> list["Scores"]:
            each = tuple(Metrics(one.protocol.name, tuple(one.names)) for one in scorers)
            explained = replace(job, metrics=each, with_trivial=False)
            return score_images(files, explained, options.workers)

        lines = list(explanation(Path(options.explain), list(fused), list(files), score))
        _print_found(found, left_out)
        print(*lines, sep="\n")
        return
    kept = {} if options.overwrite else find_kept(stated)
    outputs = [path for path in outputs if path not in kept]
    for path in outputs:
        check_output(path, options.overwrite)
    pairs, scenes_from = stated.pairs(files, job, scenes) if stated.wanted else ({}, "")
    lpips = str(metrics.protocol.lpips) if "LPIPS" in metrics.names else None
    names = [name for name in metrics.names if masks or not metrics.protocol.definition(name).needs_mask]
    check_kept(kept, pairs, names, lpips)
    (methods,) = score_images(files, job, options.workers)
    columns = {
        method: {name: [row[name] for row in images.values()] for name in names}
        for method, images in methods.items()
    }
    entries = stated.entries(methods, names, metrics.protocol, pairs, scenes_from) if stated.wanted else []
    check_scores(kept, entries)
    if options.out:
        _write_csv(Path(options.out), methods, names, metrics.protocol, options.overwrite)
    if stated.wanted:
        more = {
            "unchecked": [name for name in names if name not in metrics.protocol.checked],
            "left_out": {word: len(stems) for word, stems in left_out.items()},
            "range": options.range or None,
            "lpips": lpips,
        }
        stated.write(entries, more, options.overwrite, arguments, job, files, kept)
    print(metrics.table(columns))
    scored = "each channel" if metrics.protocol.channels else "luma BT.601"
    print(f"{len(files)} images; {scored} of colour images, 8 bit")
    _print_found(found, left_out)
    for path in outputs:
        print(f"written: {path}")


def _print_found(found: str, left_out: Mapping[str, Sequence[str]]) -> None:
    print(found)
    for word, stems in left_out.items():
        shown = ", ".join(stems[:5]) + (", ..." if len(stems) > 5 else "")
        print(f"left out: {len(stems)} images of {word} whose name not all folders have: {shown}")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="clipfuse score",
        description="Score fused images of any method. Images are matched by name, and those are scored "
        "whose name all folders have; colour images by their luma (BT.601), all rounded to 8 bits. The "
        "trivial fusions are scored, too.",
        epilog="Protocols: strict (published definitions), cddfuse, tang, tang_uint8, ivif_zoo, vifb "
        "(conventions of toolkits); --protocol without a name lists their metrics. Numbers of two protocols "
        "must not be compared.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--fused", required=True, action="append", help="folder, or LABEL=folder; may be given several times"
    )
    parser.add_argument("--infrared", required=True, help="folder")
    parser.add_argument("--visible", required=True, help="folder; the same one where both bands lie below it")
    parser.add_argument("--pairs", help=PAIRS_HELP)
    parser.add_argument("--masks", help="folder of target masks of two values, or of maps of classes")
    parser.add_argument("--mask-classes", help="the classes of --masks that are targets, as in 1,2")
    parser.add_argument(
        "--protocol",
        help="convention of the metrics (default: strict); without a name: list the metrics of each",
    )
    parser.add_argument("--metrics", default="full", help="names or the sets fast, full, joined by commas")
    parser.add_argument(
        "--own",
        action="append",
        default=[],
        metavar="MODULE.FUNCTION",
        help="a metric of yours, under @clipfuse.metrics.metric; the current folder is on the path",
    )
    parser.add_argument(
        "--lpips-weights", metavar="FILE", help="weights of VGG16 or AlexNet: LPIPS is computed, too"
    )
    parser.add_argument(
        "--explain",
        metavar="TABLE.csv",
        help="instead: find out by which protocol a table of published numbers was computed; a row per "
        "method, named like --fused, or per image",
    )
    add_range(parser)
    parser.add_argument("--out", help="CSV file for the scores per image")
    add_stated(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument(
        "--no-trivial", dest="trivial", action="store_false", help="leave out the trivial fusions"
    )
    parser.add_argument(
        "--workers",
        type=_count,
        metavar="N",
        help="processes, each of one thread, that score images at a time (default: one per core, one for few "
        "images); the scores do not depend on it",
    )
    options = parser.parse_args(arguments)
    options.trivial &= not options.degraded  # they would be fusions of the clean pairs
    others = options.protocol or options.own or options.out or options.json or options.html
    if options.explain and (others or options.metrics != "full" or options.lpips_weights):
        raise UserError(
            "--explain compares with all protocols and prints: leave out --protocol, --metrics, --own, "
            "--lpips-weights, --out, --json and --html"
        )
    return options


def _folders(words: Sequence[str]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for word in words:
        label, equals, folder = word.partition("=")
        if not equals or Path(word).is_dir():
            label, folder = Path(word).resolve().name, word
        if not label or not folder:
            raise UserError(f"--fused {word}: expected a folder, or LABEL=folder")
        if label in ("infrared", "visible", "masks") or label.startswith("trivial:"):
            raise UserError(f"--fused {word}: the label '{label}' is taken; give another, as LABEL={folder}")
        if label in folders:
            raise UserError(
                f"--fused {folders[label]} and {folder} are both called '{label}'; "
                f"label them, as in LABEL={folder}"
            )
        folders[label] = Path(folder)
    return folders


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--workers is {text}; expected a number of processes, 1 or more")
    return int(text)


def _checked(metrics: "Metrics", has_masks: bool) -> "Metrics":
    from clipfuse.metrics import DEFINITIONS

    try:
        metrics.scorer()
    except ValueError as error:
        raise UserError(f"--protocol, --metrics, --own or --lpips-weights: {error}") from None
    for name in metrics.names:
        if name in DEFINITIONS and DEFINITIONS[name].needs_mask and not has_masks:
            raise UserError(f"--metrics {name} needs target masks; add --masks, or leave it out")
    return metrics


def _write_csv(
    path: Path, methods: "Scores", names: Sequence[str], protocol: "Protocol", overwrite: bool
) -> None:
    from clipfuse.files import csv_text, write_atomically

    rows = (
        [method, image, *(row[name] for name in names), str(protocol)]
        for method, images in methods.items()
        for image, row in images.items()
    )
    with write_atomically(path, overwrite=overwrite) as file:
        file.write(csv_text(["method", "name", *names, "protocol"], rows))
