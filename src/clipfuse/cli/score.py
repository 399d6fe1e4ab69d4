"""`clipfuse score --fused D --infrared D --visible D`: score the fused images of any method."""

import argparse
import csv
import os
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from clipfuse.cli.own import look_in
from clipfuse.cli.value_range import add_range, given_ranges
from clipfuse.errors import UserError

if TYPE_CHECKING:
    from clipfuse.decoding.ranges import Ranges
    from clipfuse.metrics.protocols import Protocol
    from clipfuse.metrics.scoring import Scorer

Scores = dict[str, dict[str, dict[str, float]]]  # method -> image -> metric -> score


def main(arguments: Sequence[str]) -> None:
    """Score every folder under one protocol; print a table, and write the files that were named."""
    options = _parse(arguments)
    fused = _folders(options.fused)
    outputs = [Path(name) for name in (options.out, options.json) if name]
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise UserError(f"--out and --json are both {outputs[0]}; choose two files")

    # Imported late: --help must not wait for torch.
    from clipfuse.files import check_output
    from clipfuse.images import check_ranges, check_sizes, match_stems

    metrics = _metrics(options.protocol, options.metrics, options.own, has_masks=bool(options.masks))
    folders = {"infrared": Path(options.infrared), "visible": Path(options.visible)}
    folders |= {"masks": Path(options.masks)} if options.masks else {}
    files = match_stems(**folders, **fused)
    check_sizes(files)
    ranges = given_ranges(options.range)
    check_ranges(list(files.values()), ranges, "--range={},{}")
    for path in outputs:
        check_output(path, options.overwrite)
    methods = _score(files, list(folders), list(fused), metrics, options.trivial, ranges)
    names = [name for name in metrics.names if name in next(iter(next(iter(methods.values())).values()))]
    columns = {
        method: {name: [row[name] for row in images.values()] for name in names}
        for method, images in methods.items()
    }
    if options.out:
        _write_csv(Path(options.out), methods, names, metrics.protocol)
    if options.json:
        _write_json(Path(options.json), columns, names, metrics.protocol)
    print(metrics.table(columns))
    print(f"{len(files)} images; luma BT.601 of colour images, 8 bit")
    for path in outputs:
        print(f"written: {path}")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="clipfuse score",
        description="Score fused images of any method. Images are matched by name; colour images are scored "
        "by their luma (BT.601), all rounded to 8 bits. The trivial fusions are scored, too.",
        epilog="Protocols: strict (published definitions), cddfuse, tang, ivif_zoo, vifb (conventions of "
        "toolkits). Numbers of two protocols must not be compared.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--fused", required=True, action="append", help="folder, or LABEL=folder; may be given several times"
    )
    parser.add_argument("--infrared", required=True, help="folder")
    parser.add_argument("--visible", required=True, help="folder")
    parser.add_argument("--masks", help="folder of target masks, brighter than half their maximum on targets")
    parser.add_argument("--protocol", default="strict", help="convention of the metrics (default: strict)")
    parser.add_argument("--metrics", default="full", help="names or the sets fast, full, joined by commas")
    parser.add_argument(
        "--own",
        action="append",
        default=[],
        metavar="MODULE.FUNCTION",
        help="a metric of yours, under @clipfuse.metrics.metric; the current folder is on the path",
    )
    add_range(parser)
    parser.add_argument("--out", help="CSV file for the scores per image")
    parser.add_argument("--json", help="JSON file for the means")
    parser.add_argument("--overwrite", action="store_true", help="replace --out and --json")
    parser.add_argument(
        "--no-trivial", dest="trivial", action="store_false", help="leave out the trivial fusions"
    )
    return parser.parse_args(arguments)


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


def _metrics(protocol: str, chosen: str, own: Sequence[str], has_masks: bool) -> "Scorer":
    from clipfuse.metrics import DEFINITIONS, Scorer
    from clipfuse.metrics.protocols import protocol_named

    names = [name.strip() for name in chosen.split(",") if name.strip()]
    if own:
        look_in(os.getcwd(), own)
    try:
        extended = protocol_named(protocol).with_own(own)
        metrics = Scorer(extended, [*names, *extended.own])
    except ValueError as error:
        raise UserError(f"--protocol, --metrics or --own: {error}") from None
    for name in names:
        if name in DEFINITIONS and DEFINITIONS[name].needs_mask and not has_masks:
            raise UserError(f"--metrics {name} needs target masks; add --masks, or leave it out")
    return metrics


def _score(
    files: Mapping[str, tuple[Path, ...]],
    sources: Sequence[str],
    fused: Sequence[str],
    metrics: "Scorer",
    with_trivial: bool,
    ranges: "Ranges",
) -> Scores:
    from tqdm import tqdm

    from clipfuse.images import read_image
    from clipfuse.metrics import trivial_fusions
    from clipfuse.ops.color import rgb_to_luma_chroma
    from clipfuse.ops.depth import to_unit

    scores: Scores = {}
    for name, paths in tqdm(files.items(), desc="scoring", unit="image"):
        planes = {
            word: rgb_to_luma_chroma(to_unit(read_image(path, getattr(ranges, word, None))))[0][None]
            for word, path in zip((*sources, *fused), paths, strict=True)
        }
        infrared, visible = planes["infrared"], planes["visible"]
        mask = planes["masks"] > planes["masks"].max() / 2 if "masks" in planes else None
        candidates = {label: planes[label] for label in fused}
        if with_trivial:
            candidates |= trivial_fusions(infrared, visible)
        try:
            rows = metrics.score_all(candidates, infrared, visible, mask)
        except ValueError as error:
            raise UserError(f"{name}: {error}; leave the image or the metric out") from None
        for method, row in rows.items():
            scores.setdefault(method, {})[name] = row
    return scores


def _write_csv(path: Path, methods: Scores, names: Sequence[str], protocol: "Protocol") -> None:
    from clipfuse.files import write_atomically

    with write_atomically(path) as file:
        writer = csv.writer(file)
        writer.writerow(["method", "name", *names, "protocol"])
        for method, images in methods.items():
            for image, row in images.items():
                writer.writerow([method, image, *(row[name] for name in names), str(protocol)])


def _write_json(
    path: Path,
    columns: Mapping[str, Mapping[str, Sequence[float]]],
    names: Sequence[str],
    protocol: "Protocol",
) -> None:
    from clipfuse.files import write_json

    means: dict[str, dict[str, float | None]] = {}
    undefined: dict[str, dict[str, int]] = {}
    for method, metrics in columns.items():
        for name, scores in metrics.items():
            defined = [score for score in scores if isfinite(score)]
            means.setdefault(method, {})[name] = fmean(defined) if defined else None
            if len(defined) < len(scores):
                undefined.setdefault(method, {})[name] = len(scores) - len(defined)
    record = {
        "protocol": str(protocol),
        "images": max(len(scores) for metrics in columns.values() for scores in metrics.values()),
        "unchecked": [name for name in names if name not in protocol.checked],
        "methods": means,
        "undefined": undefined,
    }
    write_json(path, record)
