"""`clipfuse score --fused D --infrared D --visible D`: score the fused images of any method."""

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from clipfuse.errors import UserError

if TYPE_CHECKING:
    from clipfuse.metrics.base import FusionMetrics
    from clipfuse.metrics.protocols import Protocol

Scores = dict[str, dict[str, dict[str, float]]]  # method -> image -> metric -> score


def main(arguments: Sequence[str]) -> None:
    """Score every folder under one protocol; print a table, and write what was asked for."""
    options = _parse(arguments)
    fused = _folders(options.fused)
    outputs = [Path(name) for name in (options.out, options.json) if name]
    for path in outputs:
        if path.exists() and not options.overwrite:
            raise UserError(f"{path} is there already; choose another file or add --overwrite")

    # Imported late: --help must not wait for torch.
    from clipfuse.images import check_sizes, match_stems
    from clipfuse.metrics.base import FusionMetrics
    from clipfuse.metrics.protocols import protocol_named

    try:
        protocol = protocol_named(options.protocol)
        metrics = FusionMetrics(protocol, options.metrics.split(","))
    except ValueError as error:
        raise UserError(str(error)) from None
    folders = {"infrared": Path(options.infrared), "visible": Path(options.visible)}
    folders |= {"masks": Path(options.masks)} if options.masks else {}
    files = match_stems(**folders, **fused)
    check_sizes(files)
    methods = _score(files, list(folders), list(fused), metrics, options.baselines)
    columns = {
        method: {name: [row[name] for row in images.values()] for name in next(iter(images.values()))}
        for method, images in methods.items()
    }
    print(metrics.table(columns))
    print(f"{len(files)} images; luma BT.601 of colour images, 8 bit")
    if options.out:
        _write_csv(Path(options.out), methods, protocol)
    if options.json:
        _write_json(Path(options.json), columns, protocol, len(files))
    for path in outputs:
        print(f"written: {path}")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="clipfuse score",
        description="Score fused images of any method. Images are matched by name; colour images are scored "
        "by their luma (BT.601), all rounded to 8 bits. The trivial fusions are scored beside.",
        epilog="Protocols: strict (published definitions), cddfuse, tang, ivif_zoo, vifb (conventions of "
        "toolkits). Numbers of two protocols must not be compared.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--fused", required=True, action="append", help="folder, or LABEL=folder; may be given several times"
    )
    parser.add_argument("--infrared", required=True, help="folder")
    parser.add_argument("--visible", required=True, help="folder")
    parser.add_argument("--masks", help="folder of target masks, white on targets, for target-contrast")
    parser.add_argument("--protocol", default="strict", help="convention of the metrics (default: strict)")
    parser.add_argument("--metrics", default="full", help="names or the sets fast, full, joined by commas")
    parser.add_argument("--out", help="CSV file for the scores per image")
    parser.add_argument("--json", help="JSON file for the means")
    parser.add_argument("--overwrite", action="store_true", help="replace --out and --json")
    parser.add_argument(
        "--no-baselines", dest="baselines", action="store_false", help="leave out the trivial fusions"
    )
    return parser.parse_args(arguments)


def _folders(words: Sequence[str]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for word in words:
        label, equals, folder = word.partition("=")
        path = Path(folder if equals else word)
        label = label if equals else path.resolve().name
        if label in ("infrared", "visible", "masks") or label.startswith("baseline:"):
            raise UserError(f"--fused {word}: the label '{label}' is taken; give another, as in LABEL={path}")
        if label in folders:
            raise UserError(
                f"--fused {folders[label]} and {path} are both called '{label}'; "
                f"label them, as in LABEL={path}"
            )
        folders[label] = path
    return folders


def _score(
    files: Mapping[str, tuple[Path, ...]],
    sources: Sequence[str],
    fused: Sequence[str],
    metrics: "FusionMetrics",
    with_baselines: bool,
) -> Scores:
    from tqdm import tqdm

    from clipfuse.images import read_image
    from clipfuse.metrics.baselines import baselines
    from clipfuse.metrics.sharing import sharing
    from clipfuse.ops.color import rgb_to_luma_chroma
    from clipfuse.ops.depth import to_unit

    scores: Scores = {}
    for name, paths in tqdm(files.items(), desc="scoring", unit="image"):
        planes = {
            word: rgb_to_luma_chroma(to_unit(read_image(path)))[0][None]
            for word, path in zip((*sources, *fused), paths, strict=True)
        }
        infrared, visible = planes["infrared"], planes["visible"]
        mask = planes["masks"] > 0.5 if "masks" in planes else None
        candidates = {label: planes[label] for label in fused}
        if with_baselines:
            candidates |= baselines(infrared, visible)
        with sharing() as memo:
            for method, plane in candidates.items():
                try:
                    row = metrics(plane, infrared, visible, target_mask=mask)
                except ValueError as error:
                    raise UserError(f"{name}: {error}; leave the image or the metric out") from None
                scores.setdefault(method, {})[name] = {metric: float(value) for metric, value in row.items()}
                memo.retain(infrared, visible, *([] if mask is None else [mask]))
    return scores


def _write_csv(path: Path, methods: Scores, protocol: "Protocol") -> None:
    from clipfuse.engine.folder import write_atomically

    with write_atomically(path) as file:
        writer = csv.writer(file)
        for number, (method, images) in enumerate(methods.items()):
            for name, row in images.items():
                if number == 0 and name == next(iter(images)):
                    writer.writerow(["method", "name", *row, "protocol"])
                writer.writerow([method, name, *row.values(), str(protocol)])


def _write_json(
    path: Path, columns: Mapping[str, Mapping[str, Sequence[float]]], protocol: "Protocol", images: int
) -> None:
    from clipfuse.engine.folder import write_atomically

    means: dict[str, dict[str, float | None]] = {}
    undefined: dict[str, dict[str, int]] = {}
    for method, metrics in columns.items():
        for metric, scores in metrics.items():
            defined = [score for score in scores if isfinite(score)]
            means.setdefault(method, {})[metric] = fmean(defined) if defined else None
            if len(defined) < len(scores):
                undefined.setdefault(method, {})[metric] = len(scores) - len(defined)
    record = {
        "protocol": str(protocol),
        "images": images,
        "unchecked": [name for name in protocol.metrics if name not in protocol.checked],
        "methods": means,
        "undefined": undefined,
    }
    with write_atomically(path) as file:
        json.dump(record, file, indent=2)
        file.write("\n")
