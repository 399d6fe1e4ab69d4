"""How much faster are our metrics than a plain implementation, for the same numbers?

The twelve metrics of the `cddfuse` protocol on a rendered 640x480 pair and its average, against numpy, scipy,
scikit-image and scikit-learn as one would write them down: one metric at a time, two-dimensional windows.
Ours are timed alone, as pure functions of the same float64 planes, and together from images in [0, 1],
where what they share is computed once. Each round times both in turns; medians, in milliseconds. FMI is
compared with its former computation of all cells of the joint distributions. Then all metrics of `strict`,
least of the rounds, with CPU time, which a busy machine changes less, and a batch of 50 pairs.

    OMP_NUM_THREADS=2 python experiments/benchmarks/metrics.py [--rounds 7]
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
import torch
from experiments.benchmarks.feature_information import fmi
from scipy.ndimage import correlate
from scipy.signal import convolve2d
from skimage.metrics import structural_similarity
from sklearn.metrics import mutual_info_score
from torch import Tensor

from clipfuse.data.synthetic import render
from clipfuse.metrics import FusionMetrics, sharing
from clipfuse.metrics.feature_information import gradient_magnitude
from clipfuse.metrics.protocols import CDDFUSE, STRICT
from clipfuse.ops.color import rgb_to_luma_chroma
from clipfuse.ops.depth import to_bytes, to_levels, to_unit

Plain = Callable[[np.ndarray, np.ndarray, np.ndarray], float]


def entropy(f: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    counts = np.bincount(np.round(f).astype(np.uint8).ravel(), minlength=256)
    share = counts[counts > 0] / f.size
    return float(-(share * np.log2(share)).sum())


def standard_deviation(f: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    return float(f.std())


def spatial_frequency(f: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt((np.diff(f, axis=0) ** 2).mean() + (np.diff(f, axis=1) ** 2).mean()))


def average_gradient(f: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    y, x = np.gradient(f)
    return float(np.sqrt((x**2 + y**2) / 2).mean())


def mutual_information(f: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    labels = [np.round(image).astype(np.uint8).ravel() for image in (f, a, b)]
    return float(sum(mutual_info_score(labels[0], source) for source in labels[1:]))


def mean_squared_error(f: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    return float((((f - a) ** 2).mean() + ((f - b) ** 2).mean()) / 2)


def correlation(f: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    return float((np.corrcoef(f.ravel(), a.ravel())[0, 1] + np.corrcoef(f.ravel(), b.ravel())[0, 1]) / 2)


def peak_signal_to_noise_ratio(f: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(f.max() ** 2 / mean_squared_error(f, a, b)))


def sum_of_correlations_of_differences(f: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    first = np.corrcoef((f - b).ravel(), a.ravel())[0, 1]
    return float(first + np.corrcoef((f - a).ravel(), b.ravel())[0, 1])


def visual_information_fidelity(f: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    return vifp(a, f) + vifp(b, f)


def vifp(reference: np.ndarray, distorted: np.ndarray) -> float:
    """Sheikh and Bovik's VIF in the pixel domain."""
    above = below = 0.0
    for scale in range(4):
        side = 2 ** (4 - scale) + 1
        offsets = np.arange(side) - side // 2
        bell = np.exp(-(offsets**2) / (2 * (side / 5) ** 2))
        window = np.outer(bell, bell) / np.outer(bell, bell).sum()

        def mean(image: np.ndarray, window: np.ndarray = window) -> np.ndarray:
            return convolve2d(image, window, mode="valid")

        if scale:
            reference, distorted = mean(reference)[::2, ::2], mean(distorted)[::2, ::2]
        mean_r, mean_d = mean(reference), mean(distorted)
        variance_r = np.maximum(mean(reference**2) - mean_r**2, 0)
        variance_d = np.maximum(mean(distorted**2) - mean_d**2, 0)
        covariance = mean(reference * distorted) - mean_r * mean_d
        gain = covariance / (variance_r + 1e-10)
        rest = variance_d - gain * covariance
        flat = variance_r < 1e-10
        gain[flat], rest[flat] = 0, variance_d[flat]
        variance_r[flat] = 0
        flat = variance_d < 1e-10
        gain[flat], rest[flat] = 0, 0
        rest[gain < 0] = variance_d[gain < 0]
        gain[gain < 0] = 0
        rest = np.maximum(rest, 1e-10)
        above += np.log10(1 + gain**2 * variance_r / (rest + 2)).sum()
        below += np.log10(1 + variance_r / 2).sum()
    return float(above / below)


def edge_preservation(f: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    kernel = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])

    def gradient(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = (correlate(image, k, mode="constant") for k in (kernel, kernel.T[::-1]))
        return np.sqrt(x**2 + y**2), np.where(x == 0, np.pi / 2, np.arctan(y / np.where(x == 0, 1, x)))

    strength_f, angle_f = gradient(f)
    above, below = 0.0, 0.0
    for strength, angle in (gradient(a), gradient(b)):
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(strength > strength_f, strength_f / strength, strength / strength_f)
        ratio = np.where(strength == strength_f, strength_f, ratio)
        alignment = 1 - np.abs(angle - angle_f) / (np.pi / 2)
        kept_strength = 0.9994 / (1 + np.exp(-15 * (ratio - 0.5)))
        above += (kept_strength * 0.9879 / (1 + np.exp(-22 * (alignment - 0.8))) * strength).sum()
        below += strength.sum()
    return float(above / below)


def similarity(f: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    return float(sum(structural_similarity(f, source, data_range=2) for source in (a, b)))


PLAIN: dict[str, Plain] = {
    "EN": entropy,
    "SD": standard_deviation,
    "SF": spatial_frequency,
    "AG": average_gradient,
    "MI": mutual_information,
    "MSE": mean_squared_error,
    "CC": correlation,
    "PSNR": peak_signal_to_noise_ratio,
    "SCD": sum_of_correlations_of_differences,
    "VIF": visual_information_fidelity,
    "Qabf": edge_preservation,
    "SSIM": similarity,
}


def timed(work: Callable[[], object]) -> float:
    """Return the milliseconds of one call."""
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def scene() -> list[Tensor]:
    """Return fused (the average), infrared and visible, (1, 1, 480, 640) in [0, 1], 8-bit values."""
    pair = render(0, 2, 640)
    visible = to_unit(to_bytes(rgb_to_luma_chroma(to_unit(pair.visible))[0]))
    sources = [plane[None, :, 80:560] for plane in (to_unit(pair.infrared), visible)]
    return [to_unit(to_bytes((sources[0] + sources[1]) / 2)), *sources]


def alone_score(name: str, levels: list[Tensor]) -> Tensor:
    """Return one of our metrics, nothing shared with others."""
    with sharing():
        return CDDFUSE.definition(name).kernel(*levels, **CDDFUSE.options.get(name, {}))


def compare(rounds: int) -> None:
    """Time the twelve, each and together, against their plain twins; the values must agree."""
    planes = scene()
    levels = [to_levels(plane) for plane in planes]
    arrays = [plane[0, 0].numpy() for plane in levels]
    together = FusionMetrics(CDDFUSE)
    alone = {name: partial(alone_score, name, levels) for name in PLAIN}
    for name, score in alone.items():
        value, expected = score().item(), PLAIN[name](*arrays)
        assert abs(value - expected) <= 1e-6 * abs(expected), (name, value, expected)
    ours: dict[str, list[float]] = {name: [] for name in PLAIN}
    plain: dict[str, list[float]] = {name: [] for name in PLAIN}
    whole = []
    together.update(*planes)
    for _ in range(rounds):
        for name, score in alone.items():
            ours[name].append(timed(score))
            plain[name].append(timed(partial(PLAIN[name], *arrays)))
        whole.append(timed(lambda: together.update(*planes)))
    print(f"\n{'640x480, cddfuse':<22}{'plain ms':>10}{'ours ms':>10}{'ratio':>8}")
    for name in PLAIN:
        a, b = median(plain[name]), median(ours[name])
        print(f"{name:<22}{a:>10.2f}{b:>10.2f}{a / b:>8.1f}")
    a = median(map(sum, zip(*plain.values(), strict=True)))
    b = median(whole)
    print(f"{'all twelve together':<22}{a:>10.2f}{b:>10.2f}{a / b:>8.1f}")


def compare_fmi(rounds: int) -> None:
    """Time FMI against its former computation, in CPU time; the values must agree."""
    levels = [to_levels(plane) for plane in scene()]
    slopes = [gradient_magnitude(plane) for plane in levels]
    print(f"\n{'640x480, CPU ms':<22}{'all cells':>10}{'ours':>10}{'ratio':>8}{'difference':>12}")
    for name, features in (("FMI-pixel", levels), ("FMI-gradient", slopes)):
        kernel = STRICT.definition(name).kernel
        ways = partial(fmi, features), partial(kernel, *levels)
        difference = (ways[0]() - ways[1]()).abs().item()
        assert difference < 1e-7
        a, b = (
            min(times) for times in zip(*([cpu(way) for way in ways] for _ in range(rounds)), strict=True)
        )
        print(f"{name:<22}{a:>10.1f}{b:>10.1f}{a / b:>8.1f}{difference:>12.1e}")


def cpu(work: Callable[[], object]) -> float:
    """Return the milliseconds of processor time of one call."""
    start = time.process_time()
    work()
    return 1000 * (time.process_time() - start)


def list_all(rounds: int) -> None:
    """Time every metric of `strict` alone, all together, and a batch."""
    planes = scene()
    mask = torch.zeros(1, 1, 480, 640, dtype=torch.bool)
    mask[..., 200:260, 300:330] = True

    def milliseconds(names: str, planes: list[Tensor], mask: Tensor, rounds: int) -> float:
        metrics = FusionMetrics(STRICT, names)
        update = partial(metrics.update, planes[0], planes[1], planes[2], mask)
        update()
        return median(timed(update) for _ in range(rounds))

    print("\n640x480, strict, ms each:")
    each = {name: milliseconds(name, planes, mask, rounds) for name in STRICT.metrics}
    print("  ".join(f"{name} {value:.1f}" for name, value in each.items()))
    for names in ("fast", "full"):
        metrics = FusionMetrics(STRICT, names)
        update = partial(metrics.update, planes[0], planes[1], planes[2], mask)
        times = [(timed(update), cpu(update)) for _ in range(rounds)]
        wall, busy = (min(column) for column in zip(*times, strict=True))
        print(f"{names}, together: {wall:.0f} ms, CPU {busy:.0f} ms")
    batch, masks = (
        [plane.expand(50, -1, -1, -1).contiguous() for plane in planes],
        mask.expand(50, -1, -1, -1),
    )
    fast = milliseconds("fast", batch, masks, 1)
    print(f"fast, one batch of 50 pairs: {50_000 / fast:.1f} pairs/s")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print(f"{torch.get_num_threads()} threads")
    compare(rounds)
    compare_fmi(rounds)
    list_all(rounds)


if __name__ == "__main__":
    main()
