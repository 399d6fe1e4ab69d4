"""How long does fusing a folder take, and how much memory? The bundled weights on rendered 640x480 pairs.

Reading ahead and writing behind against one after the other: in turns, the same files, medians. Memory is the
largest of a fresh process that fuses all of them, imports included.

    OMP_NUM_THREADS=2 python experiments/benchmarks/fuse.py [--pairs 12] [--rounds 3] [--checkpoint C]
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from clipfuse.data.folder import load_pair
from clipfuse.data.overlap import Overlap
from clipfuse.data.pairs import Pair
from clipfuse.data.synthetic import render
from clipfuse.data.transforms import whole
from clipfuse.images import match_stems, write_png
from clipfuse.networks.load import BUNDLED, load_backbone
from clipfuse.ops.color import luma_chroma_to_rgb
from clipfuse.ops.depth import to_unit

Files = list[tuple[Path, ...]]


def render_pairs(folder: Path, count: int) -> Files:
    """Write `count` pairs and return their files."""
    for index in range(count):
        pair = render(0, index, 640)
        for name, image in {"ir": pair.infrared, "vi": pair.visible}.items():
            write_png(folder / f"{name}/{index}.png", to_unit(image[:, 80:560]), overwrite=False)
    return list(match_stems(infrared=folder / "ir", visible=folder / "vi").values())


def fuse(network: nn.Module, pair: Pair) -> tuple[Tensor, Tensor]:
    """Return the fused luma and the visible chroma."""
    batch = whole(pair)
    with torch.inference_mode():
        fused = network(batch.infrared, batch.visible).fused[0]
    return fused, batch.chroma[0]


def write(path: Path, fused: Tensor, chroma: Tensor) -> None:
    write_png(path, luma_chroma_to_rgb(fused, chroma), overwrite=True)


def overlapped(network: nn.Module, files: Files, out: Path) -> None:
    """Fuse as `clipfuse fuse` does."""
    with Overlap(load_pair, files, write) as overlap:
        for pair, (file, _) in zip(overlap, files, strict=True):
            overlap.write(out / file.name, *fuse(network, pair))


def in_turn(network: nn.Module, files: Files, out: Path) -> None:
    """Fuse one after the other."""
    for infrared, visible in files:
        write(out / infrared.name, *fuse(network, load_pair(infrared, visible)))


def network_alone(network: nn.Module, files: Files, out: Path) -> None:
    """Fuse one pair as often, without files."""
    infrared, visible = files[0]
    pair = load_pair(infrared, visible)
    for _ in files:
        fuse(network, pair)


def fresh_memory(checkpoint: Path, folder: Path) -> float:
    """Return the largest memory of `clipfuse fuse` in MB."""
    code = (
        "import pathlib, sys; from clipfuse.cli.fuse import main; main(sys.argv[1:]);"
        "print(pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    words = ["--checkpoint", checkpoint, "--infrared", folder / "ir", "--visible", folder / "vi"]
    command = [
        sys.executable,
        "-c",
        code,
        *map(str, words),
        "--out",
        str(folder / "fused"),
        "--device",
        "cpu",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED)
    options = parser.parse_args()
    ways = {"network alone": network_alone, "in turn": in_turn, "overlapped": overlapped}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = render_pairs(folder, options.pairs)
        network = load_backbone(options.checkpoint)
        network_alone(network, files[:1], folder)
        for _ in range(options.rounds):
            for way, run in ways.items():
                start = time.perf_counter()
                run(network, files, folder)
                taken[way].append((time.perf_counter() - start) / len(files))
        memory = fresh_memory(options.checkpoint, folder)
    print(f"640x480, {options.pairs} pairs, {torch.get_num_threads()} threads, medians of {options.rounds}")
    for way, record in taken.items():
        print(f"{way:<14}{median(record):>8.3f} s per pair")
    print(f"overlapped / in turn: {median(taken['overlapped']) / median(taken['in turn']):.2f} of the time")
    print(f"largest memory of the process: {memory:.0f} MB")


if __name__ == "__main__":
    main()
