"""How many samples does one core load, by itself?

The training's own loader, in one process and one thread, per crop of a pair: decoded before and kept in
memory (`loader.cache_mb`), or read from its files each time; joined into batches of 8. Figures are processor
seconds, so that other programs do not disturb them. Without `--root` pairs are rendered and stored as PNG.

    OMP_NUM_THREADS=1 python -m experiments.benchmarks.loader [--root data/msrs] [--crop 96 224]
"""

import argparse
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import cv2
import numpy as np
import torch
from experiments.common import format_table
from PIL import Image

from clipfuse.data.datamodule import FusionDataModule
from clipfuse.data.folder import PairedFolder
from clipfuse.data.synthetic import render

BATCH = 8


def store(root: Path, pairs: int) -> None:
    """Write rendered pairs of 320x320 pixels in the form of a folder of pairs."""
    for index in range(pairs):
        part = "train" if index < pairs - 2 else ("val", "test")[index % 2]
        pair = render(0, index, 320)
        images = {"ir": pair.infrared[0].numpy(), "vi": pair.visible.numpy().transpose(1, 2, 0)}
        for band, image in images.items():
            path = root / part / band / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(image)).save(path)


def rate(batches: Iterable[object], count: int) -> float:
    """Return samples per processor second, the best of three times `count` batches, after a first one."""
    stream, best = iter(batches), 0.0
    next(stream)
    for _ in range(3):
        start = time.process_time()
        for _ in islice(stream, count):
            pass
        best = max(best, count * BATCH / (time.process_time() - start))
    return best


def measure(root: Path, crop: int, cached: bool, batches: int) -> float:
    """Return samples per second of a folder of pairs; its pairs are in memory before, or never are."""
    source = PairedFolder(str(root), name="pairs")
    data = FusionDataModule(source, batch_size=BATCH, crop_size=crop, cache_mb=1e4 if cached else 0)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    stream = {"max_steps": 4 * batches, "global_step": 0, "global_rank": 0, "world_size": 1}
    data.trainer = SimpleNamespace(**stream, strategy=strategy)  # type: ignore[assignment]
    if cached:
        for name in data.parts["train"]:
            data.train_cache.load(name)
    return rate(data.train_dataloader(), batches)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--crop", type=int, nargs="+", default=[96, 224])
    parser.add_argument("--batches", type=int, default=10)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        root = options.root or Path(folder)
        if options.root is None:
            store(root, 34)
        rows = []
        for crop in options.crop:
            for cached, kind in ((True, "in memory"), (False, "from files")):
                found = measure(root, crop, cached, options.batches)
                rows.append([str(crop), kind, f"{found:.0f}"])
    print(*format_table(["crop", "pairs", "samples per second and core"], rows), sep="\n")


if __name__ == "__main__":
    main()
