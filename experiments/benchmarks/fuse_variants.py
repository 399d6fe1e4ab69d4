"""What makes fusing fast? One pair with a network of the package, each variant in fresh processes, in turns.

CPU seconds and wall seconds of a pair are the least of all rounds, memory is the largest of the process,
imports included. Differences are those of the fused image, in levels of 255, from the first variant measured.

    OMP_NUM_THREADS=2 python experiments/benchmarks/fuse_variants.py [--network bundled] [--size 640x480] \
        [--rounds 3] [--before SOURCE] [--infrared I --visible V]

`before` is an earlier version, whose `src` is SOURCE (`git archive COMMIT src | tar -x -C DIR`). Strips are
of the network `first`; others are computed as they are in each of these variants. `int8` is the ONNX file
with convolutions in 8 bits, each weight's channel and each activation scaled by its range on six rendered
pairs. Set GOMP_SPINCOUNT=0 where other processes run, or waiting threads count as CPU time.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipfuse.networks.load import load_backbone, named

Planes = tuple[Tensor, ...]


def peak() -> float:
    """Return the largest memory of this process so far, in MB."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024


def in_one_piece() -> None:
    """Compute every step of whole images at once."""
    import clipfuse.backbones.contourlet_autoencoder as network
    from clipfuse.ops import strips

    strips.may_split = network.may_split = lambda images: False


def by_library_attention() -> None:
    """Let the fused attention of torch mix whole images; its queries are channels, which are few."""
    from clipfuse.backbones.blocks import ChannelAttention

    def forward(self: ChannelAttention, features: Tensor) -> Tensor:
        dim = features.shape[1]
        parts = self.spread(self.expand(features)).flatten(2).chunk(3, dim=1)
        query, key, value = (part.unflatten(1, (self.heads, dim // self.heads)) for part in parts)
        query, key = F.normalize(query, dim=-1) * self.temperature, F.normalize(key, dim=-1)
        mixed = F.scaled_dot_product_attention(query, key, value, scale=1.0).flatten(1, 2)
        return F.conv2d(mixed.view(features.shape), self.project.weight[..., None, None])

    in_one_piece()
    ChannelAttention.forward = forward  # type: ignore[method-assign]


def keep_memory() -> None:
    """Let the process keep what it frees, as `clipfuse fuse` does."""
    from clipfuse.ops.memory import keep_freed_memory

    keep_freed_memory(2**30)


def whole_with_memory() -> None:
    """Compute whole images, and keep what is freed."""
    in_one_piece()
    keep_memory()


SETTINGS: dict[str, Callable[[], None]] = {
    "whole images": in_one_piece,
    "whole, memory kept": whole_with_memory,
    "whole, library's attention": by_library_attention,
    "strips": lambda: None,
    "strips, inference_mode": lambda: None,
    "strips, memory kept": keep_memory,  # the default of `clipfuse fuse`
    "whole, autocast to bfloat16": in_one_piece,
}
FILES = ("onnx", "int8")


def write_files(name: str, folder: Path) -> None:
    """Export a network of the package, and again with convolutions in 8 bits."""
    from onnxruntime import quantization  # type: ignore[import-untyped]

    from clipfuse.networks.export import write_onnx

    write_onnx(folder / "onnx", load_backbone(named(name)), name)
    pairs = [rendered(index) for index in range(1, 7)]

    class Pairs(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(pairs)

        def get_next(self) -> dict[str, object] | None:
            pair = next(self.left, None)
            return None if pair is None else {"infrared": pair[0].numpy(), "visible": pair[1].numpy()}

    quantization.quantize_static(
        folder / "onnx", folder / "int8", Pairs(), per_channel=True, op_types_to_quantize=["Conv"]
    )


def network_of(variant: str, name: str, folder: Path) -> Callable[..., Tensor]:
    """Return what fuses two planes."""
    if variant in FILES:
        from clipfuse.networks.onnx import read_onnx

        return read_onnx(folder / variant)
    SETTINGS.get(variant, lambda: None)()
    network: nn.Module = load_backbone(named(name))

    def fuse(*planes: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in variant):
            fused: Tensor = network(*planes).fused
        return fused.float()

    return fuse


def measure(variant: str, name: str, planes: Path, repeats: int) -> dict[str, float]:
    """Fuse in this process; the fused image is stored beside the planes."""
    infrared, visible = torch.load(planes)
    fuse = network_of(variant, name, planes.parent)
    mode = torch.inference_mode if "inference_mode" in variant else torch.no_grad
    least = {"cpu": 1e9, "wall": 1e9}
    with mode():
        fused = fuse(infrared, visible)
        for _ in range(repeats):
            cpu, wall = time.process_time(), time.perf_counter()
            fuse(infrared, visible)
            spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
            least = {name: min(least[name], spent[name]) for name in least}
    torch.save(fused.clone(), f"{planes}.{variant}")
    return {**least, "memory": peak()}


def fresh(variant: str, planes: Path, options: argparse.Namespace) -> dict[str, float]:
    """Measure a variant in a process of its own, of the earlier version for `before`."""
    words = [
        sys.executable,
        __file__,
        "--only",
        variant,
        "--planes",
        str(planes),
        *("--network", options.network, "--repeats", str(options.repeats)),
    ]
    paths = {"PYTHONPATH": options.before} if variant == "before" else {}
    done = subprocess.run(words, check=True, capture_output=True, text=True, env={**os.environ, **paths})
    return dict(json.loads(done.stdout.splitlines()[-1]))


def rendered(index: int) -> Planes:
    """Return a rendered pair, planes (1, 1, 480, 640) in [0, 1]."""
    from clipfuse.data.synthetic import render
    from clipfuse.ops.color import rgb_to_luma_chroma
    from clipfuse.ops.depth import to_unit

    pair = render(0, index, 640)
    planes = to_unit(pair.infrared)[None], rgb_to_luma_chroma(to_unit(pair.visible)[None])[0]
    return planes[0][..., 80:560, :].contiguous(), planes[1][..., 80:560, :].contiguous()


def make_planes(options: argparse.Namespace, path: Path) -> Path:
    """Store the pair given, or a rendered one, at the size wanted."""
    width, height = map(int, options.size.split("x"))
    if options.infrared:
        from clipfuse import read_pair

        batch = read_pair(options.infrared, options.visible)
        planes: Planes = (batch.infrared, batch.visible)
    else:
        planes = rendered(0)
    sized = [F.interpolate(plane, (height, width), mode="bilinear").clamp(0, 1) for plane in planes]
    torch.save(tuple(sized), path)
    return path


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3, help="pairs fused by each process after the first")
    parser.add_argument("--before", help="folder of an earlier version's packages")
    parser.add_argument("--infrared")
    parser.add_argument("--visible")
    parser.add_argument("--network", default="bundled", choices=("bundled", "first", "student"))
    parser.add_argument("--only", help="one measurement, as JSON")
    parser.add_argument("--variants", nargs="+", help="those to measure, instead of all")
    parser.add_argument("--planes", type=Path)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.network, options.planes, options.repeats)))
        return
    names = ["before"] * bool(options.before) + [*SETTINGS, *FILES]
    names = [name for name in names if name in (options.variants or names)]
    found: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as folder:
        planes = make_planes(options, Path(folder, "planes"))
        if set(FILES) & set(names):
            write_files(options.network, Path(folder))
        for _ in range(options.rounds):
            for name in names:
                now = fresh(name, planes, options)
                before = found.setdefault(name, now)
                merged = {key: min(now[key], before[key]) for key in ("cpu", "wall")}
                found[name] = {**merged, "memory": max(now["memory"], before["memory"])}
        images = {name: torch.load(f"{planes}.{name}") for name in names}
    print(f"{options.size}, {torch.get_num_threads()} threads, least of {options.rounds * options.repeats}")
    print(f"{'':<28}{'CPU s':>7}{'wall s':>8}{'x faster':>9}{'largest':>10}{'within 1':>9}{'MB':>6}")
    for name, each in found.items():
        apart = 255 * (images[name] - images[names[0]]).abs()
        print(
            f"{name:<28}{each['cpu']:>7.3f}{each['wall']:>8.3f}{found[names[0]]['cpu'] / each['cpu']:>9.2f}"
            f"{float(apart.max()):>10.4f}{float((apart <= 1).float().mean()):>9.2%}{each['memory']:>6.0f}"
        )


if __name__ == "__main__":
    main()
