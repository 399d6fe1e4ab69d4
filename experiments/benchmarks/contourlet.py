"""How fast is the contourlet transform, levels (0, 3, 3, 3), float32, medians of quiet rounds?

Against an obvious implementation of the same bands, as a test would write it (plane by plane and band by
band: scipy.signal.convolve of the wrapped image, then index resampling; forward only; scipy.ndimage.convolve
takes 60 times as long), and against rfft2 + irfft2 of the same batch, with and without their backward.
`least` is the shortest round: what it takes while no other process runs.

    python experiments/benchmarks/contourlet.py [--rounds 15] [--threads 1 2] [--profile]

Two threads collapse while another process runs; the load average is printed beside the table.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy import signal
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from clipfuse.contourlet import ContourletCoefficients, ContourletTransform, fourier
from clipfuse.contourlet.filters import FilterBank

SHAPES = ((1, 1, 224, 224), (8, 1, 224, 224), (8, 64, 224, 224))
KINDS = {
    "FFT": ("fft_c2c",),
    "matrices": ("addcmul", "aten::mul"),
    "packing, unpacking": ("copy_", "complex"),
}


Times = tuple[float, float]
"""Milliseconds of a call: median and least."""


def timed(work: Callable[[], object], rounds: int) -> Times:
    """Time a call, after one to warm up."""
    work()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times), min(times)


def convolve(image: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Circular convolution with centred taps that may exceed the image."""
    wrapped = np.pad(image, [(side // 2, side // 2) for side in taps.shape], mode="wrap")
    return signal.convolve(wrapped, taps, mode="valid")


def upsample(taps: np.ndarray, u: tuple[int, int], v: tuple[int, int]) -> np.ndarray:
    """Put tap (m, n) at m u + n v."""
    half = len(taps) // 2
    m, n = np.mgrid[-half : half + 1, -half : half + 1]
    rows, columns = m * u[0] + n * v[0], m * u[1] + n * v[1]
    dense = np.zeros((2 * rows.max() + 1, 2 * columns.max() + 1))
    dense[rows + rows.max(), columns + columns.max()] = taps
    return dense


def obvious(plane: np.ndarray, bank: FilterBank) -> list[np.ndarray]:
    """The bands of levels (0, 3, 3, 3) of one plane, one after the other, fine to coarse."""
    h, g = (np.array([*reversed(taps[1:]), *taps]) for taps in bank.pyramid_pair)
    fans = [taps.numpy() for taps in bank.fan_taps()[:2]]
    image, bands = plane, []
    for _ in range(3):
        low = convolve(image, np.outer(h, h))[::2, ::2]
        spread = np.zeros_like(image)
        spread[::2, ::2] = low
        detail, image = image - convolve(spread, np.outer(g, g)), low
        for band in range(8):
            half, quarter, last = band >> 2, (band >> 1) & 1, band & 1
            j = quarter - 1
            node = convolve(convolve(detail, fans[half]), upsample(fans[quarter], (1, 1), (1, -1)))
            node = np.roll(node, (-half - quarter, -quarter), (0, 1))[::2, ::2]
            node = node.T if half else node
            node = convolve(node, upsample(fans[last], (1, -j), (-1, 1 + j)))
            down, right = ((-1, 1) if quarter else (1, 1)) if half else (1, 0)
            node = np.roll(node, (-last * down, -last * right), (0, 1))[::2]
            bands.append(node.T if half else node)
    high = g * (-1.0) ** np.arange(len(g))
    pairs = ((h, 0), (high, 1))
    for one, down in pairs:
        for other, right in pairs:
            filtered = convolve(image, _square(np.outer(one, other)))
            bands.append(np.roll(filtered, (down, right), (0, 1))[::2, ::2])
    return bands


def _square(taps: np.ndarray) -> np.ndarray:
    size = max(taps.shape)
    return np.pad(taps, [((size - side) // 2,) * 2 for side in taps.shape])


def flat(bands: ContourletCoefficients) -> list[Tensor]:
    """All bands in one list."""
    return [bands.lowpass, *(band for level in bands.details for band in level)]


def measure(shape: tuple[int, ...], threads: int, rounds: int) -> list[tuple[str, Times, Times]]:
    """Times of everything on one batch, each with those of the FFT it is compared with."""
    torch.set_num_threads(threads)
    transform, image = ContourletTransform(), torch.randn(shape)
    bands = transform(image)
    upward = [torch.randn_like(band) for band in flat(bands)]
    leaf = image.clone().requires_grad_()
    leaves = [band.clone().requires_grad_() for band in flat(bands)]
    counts, details = [len(level) for level in bands.details], iter(leaves[1:])
    learned = ContourletCoefficients(
        leaves[0], tuple(tuple(next(details) for _ in range(count)) for count in counts), bands.size
    )

    def there_and_back(planes: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(planes))

    planes = image.flatten(0, 1)[:4].double().numpy()
    bank, scale = FilterBank(), len(image.flatten(0, 1)) / len(planes)
    slow = [scale * each for each in timed(lambda: [obvious(plane, bank) for plane in planes], 3)]
    fft = timed(lambda: there_and_back(image), rounds)
    fft_backward = timed(lambda: torch.autograd.grad(there_and_back(leaf), leaf, image), rounds)
    return [
        ("forward", timed(lambda: transform(image), rounds), fft),
        (
            "forward + backward",
            timed(lambda: torch.autograd.grad(flat(transform(leaf)), leaf, upward), rounds),
            fft_backward,
        ),
        ("inverse", timed(lambda: transform.inverse(bands), rounds), fft),
        (
            "inverse + backward",
            timed(lambda: torch.autograd.grad(transform.inverse(learned), leaves, image), rounds),
            fft_backward,
        ),
        ("rfft2 + irfft2", fft, fft),
        ("the same + backward", fft_backward, fft_backward),
        ("obvious forward", (slow[0], slow[1]), fft),
    ]


def unseen(size: tuple[int, int]) -> float:
    """Milliseconds that the first forward and inverse of a size cost more than the second."""
    transform, image = ContourletTransform(), torch.randn(1, 1, *size)
    fourier.CACHE.entries.clear()
    times = []
    for _ in range(2):
        start = time.perf_counter()
        transform.inverse(transform(image))
        times.append(1000 * (time.perf_counter() - start))
    return times[0] - times[1]


def print_profile(shape: tuple[int, ...], threads: int) -> None:
    """Shares of a forward by kind of work."""
    torch.set_num_threads(threads)
    transform, image = ContourletTransform(), torch.randn(shape)
    transform(image)
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        transform(image)
    events = trace.key_averages()
    total, total_named = sum(event.self_cpu_time_total for event in events), 0.0
    for kind, names in KINDS.items():
        own = sum(event.self_cpu_time_total for event in events if any(n in event.key for n in names))
        print(f"  {kind:<20}{own / total:>8.0%}")
        total_named += own
    print(f"  {'Python, views':<20}{1 - total_named / total:>8.0%}")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores")
    print(f"{'shape':<18}{'threads':>8}  {'what':<20}{'ms':>10}{'least':>10}{'x FFT':>8}{'least':>8}")
    for shape in SHAPES:
        for threads in options.threads:
            rounds = options.rounds if shape[1] == 1 else max(3, options.rounds // 3)
            for what, own, fft in measure(shape, threads, rounds):
                name = ",".join(map(str, shape))
                print(
                    f"{name:<18}{threads:>8}  {what:<20}{own[0]:>10.2f}{own[1]:>10.2f}"
                    f"{own[0] / fft[0]:>8.1f}{own[1] / fft[1]:>8.1f}",
                    flush=True,
                )
            if options.profile:
                print_profile(shape, threads)
    for size in ((224, 224), (480, 640), (1024, 1280)):
        print(f"first use of {size[0]}x{size[1]}: {unseen(size):.0f} ms once")


if __name__ == "__main__":
    main()
