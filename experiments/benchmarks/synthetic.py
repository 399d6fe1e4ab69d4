"""How fast are synthetic pairs rendered, against reading stored pairs? One thread, both in one run.

The plain alternative decodes a JPEG pair of the same size with Pillow, the mask and the reference as PNG.

    OMP_NUM_THREADS=1 python experiments/benchmarks/synthetic.py [--pairs 100] [--size 224]
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
from PIL import Image

from clipfuse.data.synthetic import render


def store(folder: Path, index: int, size: int) -> None:
    """Write one rendered pair as a data set on disk would hold it."""
    pair = render(0, index, size)
    assert pair.target_mask is not None
    assert pair.reference is not None
    Image.fromarray(pair.infrared[0].numpy()).save(folder / f"{index}-infrared.jpg", quality=95)
    visible = np.ascontiguousarray(pair.visible.numpy().transpose(1, 2, 0))
    Image.fromarray(visible).save(folder / f"{index}-visible.jpg", quality=95)
    Image.fromarray(pair.target_mask[0].numpy()).save(folder / f"{index}-mask.png")
    Image.fromarray(pair.reference[0].numpy()).save(folder / f"{index}-reference.png")


def decode(folder: Path, index: int) -> list[torch.Tensor]:
    """Read one stored pair back as tensors."""
    names = ("infrared.jpg", "visible.jpg", "mask.png", "reference.png")
    return [torch.from_numpy(np.array(Image.open(folder / f"{index}-{name}"))) for name in names]


def rate(work: Callable[[int], object], count: int) -> float:
    """Return calls per second, the best of three rounds."""
    rounds = []
    for _ in range(3):
        start = time.perf_counter()
        for index in range(count):
            work(index)
        rounds.append(count / (time.perf_counter() - start))
    return max(rounds)


def main() -> None:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--size", type=int, default=224)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with TemporaryDirectory() as name:
        folder = Path(name)
        for index in range(options.pairs):
            store(folder, index, options.size)
        rendered = rate(lambda index: render(0, index, options.size), options.pairs)
        decoded = rate(lambda index: decode(folder, index), options.pairs)
    print(f"{'way':<24}{'pairs/s':>10}{'ms/pair':>10}{'relative':>10}")
    for way, speed in (("render (clipfuse)", rendered), ("decode files (Pillow)", decoded)):
        print(f"{way:<24}{speed:>10.1f}{1000 / speed:>10.2f}{speed / decoded:>10.2f}")


if __name__ == "__main__":
    main()
