"""`clipfuse export [--checkpoint C] --out F`: a network to hand on, as safetensors or ONNX."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from clipfuse.cli.own import check_trust, look_in
from clipfuse.errors import UserError

_SUFFIXES = (".safetensors", ".onnx")


def main(arguments: Sequence[str]) -> None:
    """Write the network of a checkpoint in the format that the suffix of the file names."""
    options = _parse(arguments)
    out = Path(options.out)

    # Imported late: --help must not wait for torch.
    from clipfuse.files import check_output
    from clipfuse.networks.checkpoints import read_checkpoint
    from clipfuse.networks.export import write_onnx
    from clipfuse.networks.load import backbone_node, build_backbone, choose_checkpoint, named
    from clipfuse.networks.weights import write_safetensors

    if out.suffix not in _SUFFIXES:
        raise UserError(f"--out {out}: expected a name that ends in {' or '.join(_SUFFIXES)}")
    if options.trust:
        look_in(os.getcwd(), options.trust)
    path = named(options.network) if options.network else choose_checkpoint(options.checkpoint)
    checkpoint = read_checkpoint(path)
    backbone = build_backbone(checkpoint, path, options.trust)
    node = backbone_node(checkpoint, options.trust, path)
    check_output(out, options.overwrite, (path,))
    if out.suffix == ".safetensors":
        write_safetensors(out, node, backbone, options.overwrite)
        print(f"written: {out}")
        return
    name = str(node["_target_"]).rpartition(".")[2]
    difference = write_onnx(out, backbone, name, options.overwrite)
    print(f"written: {out}; what it fuses differs from the network by {difference:.1e} at most (of 1)")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="clipfuse export",
        description="Write the network of a checkpoint in the format that the suffix of --out names. "
        ".safetensors: the weights, which cannot hold code, and how to build their network; for 'clipfuse "
        "fuse' and 'clipfuse evaluate'. .onnx: the whole computation for images of any size, for 'clipfuse "
        "fuse --onnx', onnxruntime and any language.",
        allow_abbrev=False,
    )
    network = parser.add_mutually_exclusive_group()
    network.add_argument("--checkpoint", help="file of 'clipfuse train'; by default the bundled weights")
    network.add_argument(
        "--network", choices=("bundled", "first", "student"), help="instead: a network of the package"
    )
    parser.add_argument("--out", required=True, help="file to write, such as clipfuse.onnx")
    parser.add_argument("--overwrite", action="store_true", help="replace --out")
    parser.add_argument(
        "--trust", action="append", default=[], help="package whose classes the checkpoint may name"
    )
    options = parser.parse_args(arguments)
    check_trust(options.trust, options.checkpoint)
    return options
