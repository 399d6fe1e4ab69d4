"""`clipfuse export --checkpoint C --out F.safetensors`: weights to hand on, as data alone."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from clipfuse.cli.config import look_in
from clipfuse.errors import UserError


def main(arguments: Sequence[str]) -> None:
    """Write the weights of a checkpoint, and how to build their network; `fuse` and `evaluate` take both."""
    options = _parse(arguments)
    out = Path(options.out)

    # Imported late: --help must not wait for torch.
    from clipfuse.engine.build import backbone_node, build_backbone
    from clipfuse.engine.checkpoints import read_checkpoint
    from clipfuse.engine.folder import check_output
    from clipfuse.engine.weights import SUFFIX, write_safetensors

    if out.suffix != SUFFIX:
        raise UserError(f"--out {out}: expected a name that ends in {SUFFIX}, as in clipfuse{SUFFIX}")
    if options.trust:
        look_in(os.getcwd())
    checkpoint = read_checkpoint(options.checkpoint)
    backbone = build_backbone(checkpoint, options.checkpoint, options.trust)
    node = backbone_node(checkpoint, options.trust, options.checkpoint)
    check_output(out, options.overwrite)
    write_safetensors(out, node, backbone)
    print(f"written: {out}")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="clipfuse export",
        description="Write the weights of a checkpoint as one safetensors file, which cannot hold code and "
        "tells 'clipfuse fuse' and 'clipfuse evaluate' how to build the network.",
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", required=True, help="file that 'clipfuse train' wrote")
    parser.add_argument("--out", required=True, help="file to write, such as clipfuse.safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace --out")
    parser.add_argument(
        "--trust", action="append", default=[], help="package whose classes the checkpoint may name"
    )
    return parser.parse_args(arguments)
