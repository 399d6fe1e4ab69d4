"""What do the contourlet backbones cost, how much of that is the contourlet? Each size in fresh processes.

The plain alternative is the same network with zeros in place of every subband, timed in turns with it.
A step is forward, backward and Adam, on crops of 96x96 (8 at a time; the full width: one of 128x128).
Memory is the peak above what the imports need, PyTorch's compiler (150 MB) among them, which Adam, Lightning
and checkpointing import at their first use. A part is kept by the allocator, less with
MALLOC_MMAP_THRESHOLD_=1000000. The last rows are the full encoder alone on one image, forward and backward,
for comparison with the published one: 1.67 s and 0.97 GB on two threads.

    OMP_NUM_THREADS=2 python experiments/benchmarks/backbone.py [--rounds 7]
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import hydra
import torch
import torch._dynamo  # or Adam and checkpointing would, in the middle of a measurement
from hydra import compose, initialize_config_dir
from torch import Tensor

from clipfuse.backbones.contourlet_autoencoder import ContourletAutoencoder
from clipfuse.cli.options import conf_dir
from clipfuse.contourlet import ContourletCoefficients, ContourletTransform

CROPS = {"contourlet_tiny": (8, 96), "contourlet_small": (8, 96), "contourlet": (1, 128)}


class NoSubbands(ContourletTransform):
    """Zeros in the shapes of the transform's subbands, made once per shape."""

    def __init__(self) -> None:
        super().__init__()
        self.zeros: dict[torch.Size, ContourletCoefficients] = {}

    def forward(self, image: Tensor) -> ContourletCoefficients:
        """Return zeros."""
        if image.shape not in self.zeros:
            real = super().forward(image.detach())
            details = tuple(tuple(torch.zeros_like(band) for band in level) for level in real.details)
            lowpass = torch.zeros_like(real.lowpass)
            self.zeros[image.shape] = ContourletCoefficients(lowpass, details, real.size)
        return self.zeros[image.shape]


def build(name: str, checkpointing: bool = False) -> ContourletAutoencoder:
    """Return the network of conf/backbone/<name>.yaml."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        node = compose("train", [f"backbone={name}", f"backbone.checkpointing={checkpointing}"]).backbone
    torch.manual_seed(0)
    network: ContourletAutoencoder = hydra.utils.instantiate(node)
    return network.to(memory_format=torch.channels_last)


def stepper(name: str, network: ContourletAutoencoder) -> Callable[[], None]:
    """Return one training step."""
    count, side = CROPS[name]
    infrared, visible = torch.rand(count, 1, side, side), torch.rand(count, 1, side, side)
    target = infrared.maximum(visible)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        (network(infrared, visible).fused - target).abs().mean().backward()
        optimizer.step()

    return step


def seconds(rounds: int, *work: Callable[[], object]) -> list[float]:
    """Return the median time of each, taken in turns after one call to warm up."""
    times: list[list[float]] = [[] for _ in work]
    for turn in range(rounds + 1):
        for each, record in zip(work, times, strict=True):
            start = time.perf_counter()
            each()
            if turn:
                record.append(time.perf_counter() - start)
    return [median(record) for record in times]


def measure_speed(name: str, rounds: int) -> dict[str, float]:
    """Time training steps with and without the transform, the transform alone, and one large image."""
    network, without = build(name), build(name)
    transform = network.detail.transform
    without.detail.transform = NoSubbands()
    count, side = CROPS[name]
    plane = torch.rand(2 * count, 1, side // network.stride, side // network.stride, requires_grad=True)

    def transform_alone() -> None:
        coefficients = transform(plane)
        bands = [coefficients.lowpass, *(band for level in coefficients.details for band in level)]
        torch.autograd.backward(bands, [torch.ones_like(band) for band in bands])

    whole, bare, alone = seconds(rounds, stepper(name, network), stepper(name, without), transform_alone)
    image = torch.rand(1, 1, 480, 640)

    def fuse() -> None:
        with torch.inference_mode():
            network(image, image)

    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "crops": count / whole,
        "against": whole / bare,
        "share": alone / whole,
        "fuse": seconds(min(rounds, 3), fuse)[0],
    }


def measure_memory(name: str, checkpointing: bool) -> dict[str, float]:
    """Return the peak of two training steps above the imports, in MB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = stepper(name, build(name, checkpointing))
    step()
    step()
    return {"memory": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def measure_encoder(name: str, rounds: int, checkpointing: bool) -> dict[str, float]:
    """Time the encoder alone on one image of 128x128, forward and backward, and its memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    network, image = build(name, checkpointing), torch.rand(1, 1, 128, 128)

    def encode() -> None:
        base, detail = network.encode(image)
        (base.mean() + detail.mean()).backward()

    (time_taken,) = seconds(rounds, encode)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": time_taken, "memory": (peak - before) / 1024}


def fresh(*words: str) -> dict[str, float]:
    """Run one measurement in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs=2, metavar=("WHAT", "SIZE"), help="one measurement, as JSON")
    parser.add_argument("--checkpointing", action="store_true", help="for --only memory and encoder")
    options = parser.parse_args()
    if options.only:
        what, name = options.only
        measure = {
            "speed": lambda: measure_speed(name, options.rounds),
            "memory": lambda: measure_memory(name, options.checkpointing),
            "encoder": lambda: measure_encoder(name, options.rounds, options.checkpointing),
        }[what]
        print(json.dumps(measure()))
        return
    rounds = ("--rounds", str(options.rounds))
    print(f"{torch.get_num_threads()} threads")
    print(
        f"{'':<40}{'time against':>14}{'contourlet':>12}{'peak':>7}{'check-':>9}{'640x480':>9}\n"
        f"{'size':<20}{'parameters':>11}{'crops/s':>9}{'no contourlet':>14}{'of a step':>12}{'MB':>7}"
        f"{'pointed':>9}{'s':>9}"
    )
    for name in CROPS:
        speed = fresh("--only", "speed", name, *rounds)
        plain = fresh("--only", "memory", name)["memory"]
        checked = fresh("--only", "memory", name, "--checkpointing")["memory"]
        print(
            f"{name:<20}{speed['parameters']:>11,.0f}{speed['crops']:>9.2f}{speed['against']:>14.3f}"
            f"{speed['share']:>12.1%}{plain:>7.0f}{checked:>9.0f}{speed['fuse']:>9.2f}"
        )
    for words in ((), ("--checkpointing",)):
        encoder = fresh("--only", "encoder", "contourlet", *rounds, *words)
        kind = "contourlet encoder alone, one image" + (", checkpointed" if words else "")
        print(f"{kind:<50}{encoder['seconds']:.2f} s {encoder['memory']:.0f} MB")


if __name__ == "__main__":
    main()
