"""`clipfuse fuse [--checkpoint C] --infrared D --visible D --out D`: fuse folders or single files."""

import argparse
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from clipfuse.cli.own import look_in
from clipfuse.cli.value_range import add_range, given_ranges
from clipfuse.errors import UserError


def main(arguments: Sequence[str]) -> None:
    """Fuse every pair; the outputs appear together at the end, or not at all."""
    options = _parse(arguments)
    infrared, visible, out = Path(options.infrared), Path(options.visible), Path(options.out)

    # Imported late: --help must not wait for torch.
    import torch
    from tqdm import tqdm

    from clipfuse.data.overlap import Overlap
    from clipfuse.images import check_ranges, match_stems, read_registered, write_png
    from clipfuse.networks.apply import apply_network
    from clipfuse.networks.load import choose_checkpoint, load_network
    from clipfuse.ops.color import luma_chroma_to_rgb, rgb_to_luma_chroma
    from clipfuse.ops.depth import to_unit

    if infrared.is_file() and visible.is_file():
        pairs: dict[str, tuple[Path, ...]] = {infrared.stem: (infrared, visible)}
    else:
        pairs = match_stems(infrared=infrared, visible=visible)
    ranges = given_ranges(options.range)
    _check_outputs(out, list(pairs), options.overwrite, sources={infrared.resolve(), visible.resolve()})
    if options.trust:
        look_in(os.getcwd(), options.trust)
    network_file = Path(options.onnx) if options.onnx is not None else choose_checkpoint(options.checkpoint)
    network = load_network(network_file, options.trust)
    if options.onnx is None:
        try:
            network.to(torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu")))
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f"--device {options.device} cannot be used here: {str(error).splitlines()[0]}"
            ) from error

    check_ranges(list(pairs.values()), ranges, "--range={},{}")
    items = [(*files, ranges) for files in pairs.values()]

    def write(path: Path, fused: torch.Tensor, chroma: torch.Tensor, colour: bool) -> None:
        write_png(path, luma_chroma_to_rgb(fused, chroma) if colour else fused, overwrite=True)

    with _moved_when_complete(out) as partial, Overlap(read_registered, items, write) as overlap:
        for stem, stored in tqdm(zip(pairs, overlap, strict=True), "fusing", len(pairs), unit="pair"):
            thermal, color = map(to_unit, stored)
            luma, chroma = rgb_to_luma_chroma(color)
            what = f"{pairs[stem][1]} with {network_file}"
            fused = apply_network(network, thermal[None], luma[None], what)[0]
            overlap.write(partial / f"{stem}.png", fused, chroma, len(color) == 3)
    print(f"{len(pairs)} fused {'image' if len(pairs) == 1 else 'images'} in {out}")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="clipfuse fuse",
        description="Fuse infrared and visible images of any size, matched by file name. PNG, JPEG, BMP, "
        "TIFF and WebP of any depth; the result is an 8-bit PNG with the colour of the visible image.",
        allow_abbrev=False,
    )
    network = parser.add_mutually_exclusive_group()
    network.add_argument("--checkpoint", help="file of 'clipfuse train'; by default the bundled weights")
    network.add_argument("--onnx", help="instead: ONNX file of 'clipfuse export'; runs on the CPU")
    parser.add_argument("--infrared", required=True, help="folder (or one file)")
    parser.add_argument("--visible", required=True, help="folder (or one file)")
    parser.add_argument("--out", required=True, help="folder for the fused images")
    parser.add_argument("--overwrite", action="store_true", help="replace images that are already in --out")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; by default a GPU if there is one")
    add_range(parser)
    parser.add_argument(
        "--trust", action="append", default=[], help="package whose classes the checkpoint may name"
    )
    options = parser.parse_args(arguments)
    if options.onnx is not None and (options.trust or options.device not in (None, "cpu")):
        raise UserError("--onnx names no classes and uses the CPU: leave out --trust and --device")
    return options


@contextmanager
def _moved_when_complete(out: Path) -> Iterator[Path]:
    """Give a folder whose files move to `out` at the end, or vanish if that is not reached."""
    partial = out / f".partial.{os.getpid()}"
    made = not out.exists()
    try:
        yield partial
        for path in partial.iterdir():
            path.replace(out / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if made and out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def _check_outputs(out: Path, stems: Sequence[str], overwrite: bool, sources: set[Path]) -> None:
    if out.resolve() in sources | {source.parent for source in sources if source.is_file()}:
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
