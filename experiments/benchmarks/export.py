"""Is an ONNX file as fast as torch? Both fuse one pair of 640x480 in turns; memory in fresh processes.

The bundled network, or that of a checkpoint. Memory is the peak above what the imports and the network need.
Exporting it takes about a minute of CPU time, so that --file keeps what was exported.

    OMP_NUM_THREADS=2 python experiments/benchmarks/export.py [--checkpoint C] [--rounds 5] [--file F.onnx]
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from clipfuse.networks.export import write_onnx
from clipfuse.networks.load import BUNDLED, load_backbone
from clipfuse.networks.onnx import Fuse, read_onnx


def peak() -> float:
    """Return the largest memory of this process so far, in MB; `ru_maxrss` would count its parent's."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def opened(kind: str, checkpoint: str, file: str) -> Fuse:
    """Return what fuses: the network itself, or its ONNX file."""
    if kind == "onnx":
        return read_onnx(Path(file))
    network = load_backbone(checkpoint)
    return lambda infrared, visible: network(infrared, visible).fused


@torch.inference_mode()
def measure_memory(kind: str, checkpoint: str, file: str, planes: tuple[Tensor, Tensor]) -> float:
    """Return the peak of fusing twice above that of opening, in MB."""
    fuse = opened(kind, checkpoint, file)
    before = peak()
    fuse(*planes)
    fuse(*planes)
    return peak() - before


def fresh_memory(kind: str, checkpoint: str, file: Path) -> float:
    """Run `measure_memory` in a process of its own."""
    words = ["--memory", kind, "--checkpoint", checkpoint, "--file", str(file)]
    done = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout))


@torch.inference_mode()
def measure_seconds(fuses: dict[str, Fuse], planes: tuple[Tensor, Tensor], rounds: int) -> dict[str, float]:
    """Return the median time of each, taken in turns after one call to warm up."""
    times: dict[str, list[float]] = {kind: [] for kind in fuses}
    for turn in range(rounds + 1):
        for kind, fuse in fuses.items():
            start = time.perf_counter()
            fuse(*planes)
            if turn:
                times[kind].append(time.perf_counter() - start)
    return {kind: median(record) for kind, record in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default=str(BUNDLED))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--file", help="exported before, or to export to")
    parser.add_argument("--memory", choices=("torch", "onnx"), help="one measurement, as JSON")
    options = parser.parse_args()
    infrared, visible = torch.rand(2, 1, 1, 480, 640).unbind()
    if options.memory:
        used = measure_memory(options.memory, options.checkpoint, options.file, (infrared, visible))
        print(json.dumps(used))
        return
    with TemporaryDirectory() as folder:
        file = Path(options.file or f"{folder}/network.onnx")
        if not file.exists():
            write_onnx(file, load_backbone(options.checkpoint), "bundled")
        fuses = {kind: opened(kind, options.checkpoint, str(file)) for kind in ("torch", "onnx")}
        seconds = measure_seconds(fuses, (infrared, visible), options.rounds)
        print(f"{options.checkpoint}, 640x480, {torch.get_num_threads()} threads")
        for kind in fuses:
            print(f"{kind:<6}{seconds[kind]:>8.3f} s {fresh_memory(kind, options.checkpoint, file):>7.0f} MB")
        print(f"onnx / torch: {seconds['onnx'] / seconds['torch']:.2f} of the time")


if __name__ == "__main__":
    main()
