"""`clipfuse fuse [--checkpoint C] --infrared D --visible D --out D`: fuse folders or single files."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipfuse.cli.devices import chosen_device
from clipfuse.cli.fuse_losses import compare_losses
from clipfuse.cli.fuse_video import fuse_videos, takes_videos
from clipfuse.cli.own import check_trust, look_in
from clipfuse.cli.value_range import add_range, given_ranges, warn_of_training
from clipfuse.errors import UserError
from clipfuse.networks.by_loss import BY_LOSS, loss_weights

if TYPE_CHECKING:
    import torch

PAIRS_HELP = (
    "where names alone do not show the pairs: '{id}_ir.png | {id}_vis.png', or a .csv of infrared,visible; "
    "relative to --infrared and --visible"
)
# Options that change no fused image.
_NO_MATTER = (
    *("checkpoint", "network", "onnx", "infrared", "visible", "pairs", "out", "overwrite", "device", "trust"),
    *("codec", "loss", "compare_losses"),
)


def main(arguments: Sequence[str]) -> None:
    """Fuse every pair; each image appears when it is finished, and a repeat goes on behind the last one."""
    options = _parse(arguments)
    if options.compare_losses is not None:
        return compare_losses(options, arguments)
    infrared, visible, out = Path(options.infrared), Path(options.visible), Path(options.out)
    if takes_videos(options):
        network_file = _network_file(options)
        return fuse_videos(_load(options, network_file), network_file, options)

    # Imported late: --help must not wait for torch.
    import torch
    from tqdm import tqdm

    from clipfuse.cli.finished import Finished, stop_on_signals
    from clipfuse.data.checks import look_at_bands
    from clipfuse.data.listed import given_pairs
    from clipfuse.data.overlap import Overlap
    from clipfuse.files import file_sha256
    from clipfuse.images import check_ranges, read_registered, write_png
    from clipfuse.networks.apply import apply_in_color
    from clipfuse.ops.color import eight_bit_rgb, rgb_to_luma_chroma
    from clipfuse.ops.depth import to_unit

    found = given_pairs(infrared, visible, options.pairs)
    pairs = {name: (pair.infrared, pair.visible) for name, pair in found.pairs.items()}
    print(found.summary())
    network_file = _network_file(options)
    settings = {key: value for key, value in vars(options).items() if key not in _NO_MATTER}
    known = file_sha256(network_file) if network_file.is_file() else None  # to load it will fail
    finished = Finished(out, {"network": known, **settings})
    left = {name: files for name, files in pairs.items() if not finished.holds(name, files)}
    _check_outputs(
        out, list(left), options.overwrite, {file.parent for files in pairs.values() for file in files}
    )
    ranges = given_ranges(options.range)
    if warning := look_at_bands(pairs):
        print(f"warning: {warning}", file=sys.stderr)
    network = _load(options, network_file)
    warn_of_training(list(pairs.values()), ranges, network_file)

    check_ranges(list(pairs.values()), ranges, "--range={},{}")
    items = [(*files, ranges) for files in left.values()]

    def write(name: str, fused: torch.Tensor, chroma: torch.Tensor, colour: bool) -> None:
        write_png(finished.staged, eight_bit_rgb(fused, chroma) if colour else fused, overwrite=True)
        finished.add(name, pairs[name], options.overwrite)

    with (
        finished.kept_until_complete(len(pairs)),
        stop_on_signals(),
        Overlap(read_registered, items, write) as overlap,
    ):
        for name, stored in tqdm(zip(left, overlap, strict=True), "fusing", len(left), unit="pair"):
            thermal, color = map(to_unit, stored)
            luma, chroma = rgb_to_luma_chroma(color)
            what = f"{pairs[name][1]} with {network_file}"
            fused, chroma = apply_in_color(network, thermal[None], luma[None], chroma[None], what)
            overlap.write(name, fused[0], chroma[0], len(color) == 3 and not options.luma)
    earlier = len(pairs) - len(left)
    print(
        f"{len(pairs)} fused {'image' if len(pairs) == 1 else 'images'} in {out}"
        + (f", {earlier} of them from the run that was stopped" if earlier else "")
    )


def _network_file(options: argparse.Namespace) -> Path:
    from clipfuse.networks.load import choose_checkpoint, named

    if options.onnx is not None:
        return Path(options.onnx)
    if options.loss is not None:
        return loss_weights(options.loss)
    return named(options.network) if options.network else choose_checkpoint(options.checkpoint)


def _load(options: argparse.Namespace, file: Path) -> "torch.nn.Module":
    """Return the network of a file on the device that was chosen."""
    from clipfuse.networks.load import load_network

    if options.trust:
        look_in(os.getcwd(), options.trust)
    network = load_network(file, options.trust)
    if file.suffix != ".onnx":
        network.to(chosen_device(options.device, "--device "))
    return network


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="clipfuse fuse",
        description="Fuse infrared and visible images of any size, paired by their names. PNG, JPEG, BMP, "
        "TIFF and WebP of any depth; the result is an 8-bit PNG with the fused luma and the hue of the "
        "visible image, or the one that the network has learned. Or two videos, of one size, rate and "
        "length, to one.",
        allow_abbrev=False,
    )
    network = parser.add_mutually_exclusive_group()
    network.add_argument("--checkpoint", help="file of 'clipfuse train'; by default the bundled weights")
    network.add_argument(
        "--network", choices=("bundled", "first", "student"), help="instead: a network of the package"
    )
    network.add_argument("--onnx", help="instead: ONNX file of 'clipfuse export'; runs on the CPU")
    network.add_argument(
        "--loss",
        metavar="NAME",
        help=f"instead: the small network that was trained under a loss: {', '.join(BY_LOSS)}",
    )
    network.add_argument(
        "--compare-losses",
        nargs="*",
        metavar="NAME",
        help="instead: all these small networks, or those that are named, in one HTML page with a slider",
    )
    parser.add_argument("--infrared", required=True, help="folder, one file, or a video")
    parser.add_argument(
        "--visible",
        required=True,
        help="folder, one file, or a video; the same folder where both bands lie below it",
    )
    parser.add_argument("--pairs", help=PAIRS_HELP)
    parser.add_argument(
        "--out", required=True, help="folder for the fused images, or the video or page to write"
    )
    parser.add_argument("--luma", action="store_true", help="write the fused luma, in gray, without colour")
    parser.add_argument("--overwrite", action="store_true", help="replace images that are already in --out")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; by default a GPU if there is one")
    parser.add_argument(
        "--codec", help="of the video: MJPG, mp4v, FFV1 (without loss), ...; by default by --out"
    )
    add_range(parser)
    parser.add_argument(
        "--trust", action="append", default=[], help="package whose classes the checkpoint may name"
    )
    options = parser.parse_args(arguments)
    if options.onnx is not None and not options.onnx.endswith(".onnx"):
        raise UserError(f"--onnx {options.onnx}: expected a name that ends in .onnx")
    word, file = ("--onnx", options.onnx) if options.onnx else ("--checkpoint", options.checkpoint or "")
    if file.endswith(".onnx") and (options.trust or options.device not in (None, "cpu")):
        raise UserError(f"{word} {file} names no classes and uses the CPU: leave out --trust and --device")
    check_trust(options.trust, options.checkpoint)
    return options


def _check_outputs(out: Path, stems: Sequence[str], overwrite: bool, sources: set[Path]) -> None:
    if out.resolve() in {source.resolve() for source in sources}:
        raise UserError(f"--out {out} holds the images to fuse; choose another folder")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; expected a folder")
    if folders := [stem for stem in stems if (out / f"{stem}.png").is_dir()]:
        raise UserError(f"{out / folders[0]}.png is a folder; choose another --out")
    existing = [stem for stem in stems if os.path.lexists(out / f"{stem}.png")]
    if existing and not overwrite:
        names = ", ".join(f"{stem}.png" for stem in existing[:5])
        more = f" and {len(existing) - 5} more" if len(existing) > 5 else ""
        raise UserError(f"--out {out} already holds {names}{more}; choose another folder or add --overwrite")
