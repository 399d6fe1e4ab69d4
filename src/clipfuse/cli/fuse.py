"""`clipfuse fuse --checkpoint C --infrared D --visible D --out D`: fuse folders or single files."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from clipfuse.errors import UserError


def main(arguments: Sequence[str]) -> None:
    """Fuse every pair; nothing is written unless all outputs may be."""
    options = _parse(arguments)
    infrared, visible, out = Path(options.infrared), Path(options.visible), Path(options.out)

    # Imported late: --help must not wait for torch.
    import torch
    from tqdm import tqdm

    from clipfuse.data.folder import load_pair
    from clipfuse.data.transforms import whole
    from clipfuse.engine.run import load_backbone
    from clipfuse.images import match_stems, write_png
    from clipfuse.ops.color import luma_chroma_to_rgb

    if infrared.is_file() and visible.is_file():
        pairs: dict[str, tuple[Path, ...]] = {infrared.stem: (infrared, visible)}
    else:
        pairs = match_stems(infrared=infrared, visible=visible)
    _check_outputs(out, list(pairs), options.overwrite)
    backbone = load_backbone(options.checkpoint, options.trust)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        backbone.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device '{device}' cannot be used here: {error}") from error
    with torch.inference_mode():
        for stem, (infrared_file, visible_file) in tqdm(pairs.items(), desc="fusing", unit="pair"):
            pair = load_pair(infrared_file, visible_file)
            planes = whole(pair)
            luma, chroma = planes["visible"], planes["chroma"]
            fused = backbone(planes["infrared"][None].to(device), luma[None].to(device)).fused[0].cpu()
            image = luma_chroma_to_rgb(fused, chroma) if pair.visible.shape[0] == 3 else fused
            write_png(out / f"{stem}.png", image, overwrite=options.overwrite)
    print(f"{len(pairs)} fused {'image' if len(pairs) == 1 else 'images'} in {out}")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="clipfuse fuse",
        description="Fuse infrared and visible images of any size, matched by file name. PNG, JPEG, BMP, "
        "TIFF, 8 or 16 bit; the result is an 8-bit PNG with the colour of the visible image.",
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", required=True, help="file that 'clipfuse train' wrote")
    parser.add_argument("--infrared", required=True, help="folder (or one file)")
    parser.add_argument("--visible", required=True, help="folder (or one file)")
    parser.add_argument("--out", required=True, help="folder for the fused images")
    parser.add_argument("--overwrite", action="store_true", help="replace images that are already in --out")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; by default a GPU if there is one")
    parser.add_argument(
        "--trust", action="append", default=[], help="package whose classes the checkpoint may name"
    )
    return parser.parse_args(arguments)


def _check_outputs(out: Path, stems: Sequence[str], overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; expected a folder")
    existing = [stem for stem in stems if (out / f"{stem}.png").exists()]
    if existing and not overwrite:
        names = ", ".join(f"{stem}.png" for stem in existing[:5])
        more = f" and {len(existing) - 5} more" if len(existing) > 5 else ""
        raise UserError(f"--out {out} already holds {names}{more}; choose another folder or add --overwrite")
