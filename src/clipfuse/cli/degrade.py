"""`clipfuse degrade --in D --out D --kind K`: degraded copies of pairs, alike on every machine."""

import argparse
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from clipfuse.cli.fuse import PAIRS_HELP
from clipfuse.cli.value_range import add_range, given_ranges
from clipfuse.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from clipfuse.data.matching import PairFiles

FOLDERS = {"infrared": "ir", "visible": "vi"}
_LABELS = frozenset(("label", "labels", "mask", "masks", "gt", "segmentation", "annotation", "annotations"))
_LABEL_FILES = ((".txt",), (".xml",), (".json",))


def main(arguments: Sequence[str]) -> None:
    """Write the pairs of one folder once for each kind and strength; each folder appears when it is whole.

    Raises:
        UserError: the pairs cannot be read or are degraded already, or the output cannot be written or would
            replace files that this command has not written.
    """
    options = _parse(arguments)

    # Imported late: --help must not wait for torch.
    import torch
    from tqdm import tqdm

    from clipfuse.cli.finished import stop_on_signals
    from clipfuse.data.degraded import KINDS, RECORD, STRENGTHS, degrade, describe
    from clipfuse.data.listed import given_pairs
    from clipfuse.data.matching import set_name
    from clipfuse.files import write_json
    from clipfuse.images import check_ranges, encode_png, read_registered
    from clipfuse.ops.depth import from_unit, to_unit

    source, out = Path(options.source), Path(options.out)
    kinds = _chosen("--kind", options.kind, list(KINDS))
    strengths = [int(each) for each in _chosen("--strength", options.strength, [*map(str, STRENGTHS)])]
    found = given_pairs(source, source, options.pairs)
    pairs, ranges = found.pairs, given_ranges(options.range)
    _check_clean(source, pairs.values())
    labels = _labels(source, pairs)
    several = len(kinds) * len(strengths) > 1
    targets = {
        (kind, strength): out / f"{kind}-{strength}" if several else out
        for kind in kinds
        for strength in strengths
    }
    _check_outputs(source, out, list(targets.values()), options.overwrite)
    files = [(pair.infrared, pair.visible) for pair in pairs.values()]
    check_ranges(files, ranges, "--range={},{}")
    print(found.summary())
    with stop_on_signals(), _staged(list(targets.values())) as folders:
        for sample, pair in tqdm(pairs.items(), "degrading", unit="pair"):
            stored = read_registered(pair.infrared, pair.visible, ranges)
            depths = [torch.uint8 if plane.dtype == torch.uint8 else torch.uint16 for plane in stored]
            clean = to_unit(stored[0]), to_unit(stored[1])
            written = [encode_png(from_unit(*each)) for each in zip(clean, depths, strict=True)]
            for (kind, strength), target in targets.items():
                planes = degrade(kind, strength, *clean, pair.name)
                for band, plane, first, depth, same in zip(
                    FOLDERS, planes, clean, depths, written, strict=True
                ):
                    content = same if plane is first else encode_png(from_unit(plane, depth))
                    path = folders[target] / (pair.part or "") / FOLDERS[band] / f"{pair.name}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                for name, file in labels.get(sample, ()):
                    path = folders[target] / (pair.part or "") / name / f"{pair.name}{file.suffix}"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, path)
        for (kind, strength), target in targets.items():
            more = {"set": set_name(source) or "data", "pairs": len(pairs), "range": options.range or None}
            record = describe(kind, strength) | more
            parts = {"", *(pair.part or "" for pair in pairs.values())}
            for part in parts - {""}:
                write_json(folders[target] / part / RECORD, record)
            names = sorted({*_files(folders[target]), RECORD})
            write_json(folders[target] / RECORD, record | {"files": names})
    for (kind, _), target in targets.items():
        print(f"{target}: {len(pairs)} pairs, {kind} in the {' and the '.join(KINDS[kind].bands)} images")
    for name, count in Counter(name for files in labels.values() for name, _ in files).items():
        print(f"copied into each: {count} files of {name}")
    if not labels:
        print("no labels were copied: no folder beside those of the bands is named so")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="clipfuse degrade",
        description="Write degraded copies of pairs by the protocol degraded-1: noise and stripes in the "
        "infrared images; low_light, overexposed, rain and haze in the visible ones; blur and low_contrast "
        "in both; misaligned shifts the infrared ones. The same pair gets the same images on every machine, "
        "whatever other pairs are there. Images are written as PNG of 8 bits, or of 16 for files of more.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--in", dest="source", required=True, metavar="DIR", help="folder in which both bands lie"
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="folder for ir/ and vi/, and labels; of several kinds or strengths for KIND-STRENGTH/ir/, ...",
    )
    parser.add_argument(
        "--kind",
        required=True,
        help="noise, stripes, blur, low_light, overexposed, rain, haze, low_contrast, misaligned; several "
        "joined by commas, or all",
    )
    parser.add_argument(
        "--strength", default="all", help="1, 2 or 3; several joined by commas, or all (default: all)"
    )
    parser.add_argument("--pairs", help=PAIRS_HELP.replace("--infrared and --visible", "--in"))
    add_range(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace folders that this command has written"
    )
    return parser.parse_args(arguments)


def _chosen(option: str, text: str, known: Sequence[str]) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if words == ["all"]:
        return list(known)
    for word in words:
        if word not in known:
            raise UserError(
                f"{option} {text}: '{word}' is unknown.{did_you_mean(word, known)} Expected "
                f"{', '.join(known)}, several joined by commas, or all"
            )
    return [word for word in known if word in words]


def _labels(source: Path, pairs: Mapping[str, "PairFiles"]) -> dict[str, list[tuple[str, Path]]]:
    """Return the files of labels of each pair, each with the name of its folder."""
    from clipfuse.data.masks import find_beside
    from clipfuse.decoding.reading import SUFFIXES

    below = {name.lower(): name for _, names, _ in os.walk(source) for name in sorted(names)}
    found: dict[str, list[tuple[str, Path]]] = {}
    for name in (name for low, name in sorted(below.items()) if _LABELS & set(re.split(r"[_\W]", low))):
        for suffixes in (SUFFIXES, *_LABEL_FILES):
            for sample, file in find_beside(source, name, pairs, suffixes)[1].items():
                found.setdefault(sample, []).append((name, file))
    return found


def _check_clean(source: Path, pairs: Iterable["PairFiles"]) -> None:
    """Require that no pair is degraded: a record states one degradation alone."""
    from clipfuse.data.degraded import RECORD

    folders = {path.absolute().parent for pair in pairs for path in (pair.infrared, pair.visible)}
    places = sorted({place for folder in folders for place in (folder, folder.parent)})
    if record := next((place / RECORD for place in places if (place / RECORD).is_file()), None):
        raise UserError(
            f"--in {source}: its pairs are degraded already, by {record}; name the folder of the clean pairs"
        )


def _files(folder: Path) -> Iterator[str]:
    """Yield the paths, relative to a folder, of all files and links in and below it."""
    for place, names, files in os.walk(folder):
        for path in (Path(place) / name for name in (*files, *names)):
            if path.is_symlink() or not path.is_dir():
                yield path.relative_to(folder).as_posix()


def _check_own(target: Path) -> None:
    """Require that a folder holds nothing but the files that its record lists."""
    from clipfuse.data.degraded import RECORD
    from clipfuse.files import read_json

    remedy = "choose another folder for --out, or remove this one yourself"
    known = read_json(target / RECORD, remedy=remedy).get("files")
    if not isinstance(known, list):
        raise UserError(f"{target / RECORD}: does not list the files of its folder; {remedy}")
    others = sorted({*_files(target)} - {name for name in known if isinstance(name, str)})
    if others:
        more = f" and {len(others) - 1} more files" if len(others) > 1 else ""
        raise UserError(
            f"--out: {target} holds {others[0]}{more}, which this command has not written; move them away, "
            "or choose another folder"
        )


def _check_outputs(source: Path, out: Path, targets: Sequence[Path], overwrite: bool) -> None:
    from clipfuse.data.degraded import RECORD

    first, second = source.resolve(), out.resolve()
    if first.is_relative_to(second) or second.is_relative_to(first):
        raise UserError(f"--out {out} and --in {source} lie in each other; choose another folder")
    for target in targets:
        if not os.path.lexists(target):
            continue
        if target.is_symlink() or os.path.ismount(target) or target.resolve() == Path.cwd():
            what = "a link" if target.is_symlink() else "in use as a place"
            raise UserError(f"--out: {target} is {what}, which cannot be replaced; name a new folder in it")
        if not target.is_dir():
            raise UserError(f"--out: {target} is a file; expected a folder")
        if any(target.iterdir()):
            if not (target / RECORD).is_file():
                raise UserError(
                    f"--out: {target} holds files that this command has not written; choose another folder"
                )
            if not overwrite:
                raise UserError(
                    f"--out: {target} holds degraded pairs already; choose another folder or add --overwrite"
                )
            _check_own(target)


@contextmanager
def _staged(targets: Sequence[Path]) -> Iterator[dict[Path, Path]]:
    """Give folders that take the place of the targets at the end, or vanish on an error."""
    staged = {path: path.with_name(f".{path.name}.{os.getpid()}.partial") for path in targets}
    above = dict.fromkeys(path for each in targets for path in each.parents if not path.exists())
    try:
        for path in staged.values():
            path.mkdir(parents=True)
        yield staged
        for target, path in staged.items():
            old = path.with_name(f".old{path.name}")
            if target.exists():
                target.rename(old)
            path.rename(target)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        for path in staged.values():
            shutil.rmtree(path, ignore_errors=True)
        for path in above:
            with suppress(OSError):  # not empty
                path.rmdir()
