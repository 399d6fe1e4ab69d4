"""How often are shifted pairs found, and others flagged? The limits of `clipfuse doctor --pairs`, and a test.

python experiments/registration/study.py --data DIR [--part train|test]

DIR holds roadscene/ and msrs/. Each pair is measured as it is, and with its infrared image shifted by 3 px
(and 2 and 4) in a direction drawn evenly by its name (bicubic; both images lose 8 px at each side, so that
nothing is mirrored), and beside the visible image of another pair, for which no shift is right. A pair that
is flagged as it is counts as truly shifted if its bands share more mutual information where the estimate
lies than where the set's median does: another measure, which knows no gradients.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from experiments.common import format_table

from clipfuse.data.folder import PairedFolder
from clipfuse.data.registration import FAR, SURE, Floats, Shift, estimate_shift
from clipfuse.images import gray
from clipfuse.ops.depth import to_unit
from clipfuse.ops.seeding import derived_seed

LENGTHS = (2, 3, 4)
MARGIN = 8


def sets(data: Path, part: str) -> dict[str, list[tuple[str, Floats, Floats]]]:
    """Return the pairs of each set: of MSRS every third training pair, of RoadScene val and test together."""
    road = PairedFolder(str(data / "roadscene"), split="roadscene")
    msrs = PairedFolder(str(data / "msrs"), val=0)
    parts = {
        "RoadScene": (road, ["train"] if part == "train" else ["val", "test"]),
        "MSRS": (msrs, [part]),
    }
    found = {}
    for name, (source, chosen) in parts.items():
        samples = [sample for each in chosen for sample in source.parts()[each]]
        step = 3 if name == "MSRS" and part == "train" else 1
        found[name] = [(sample, *planes(source, sample)) for sample in samples[::step]]
    return found


def planes(source: PairedFolder, sample: str) -> tuple[Floats, Floats]:
    """Return infrared image and visible luma, (H, W) in [0, 1]."""
    pair = source.load(sample)
    return to_unit(pair.infrared)[0].numpy(), to_unit(gray(pair.visible))[0].numpy()


def moved(infrared: Floats, visible: Floats, sample: str, length: int) -> tuple[Floats, Floats]:
    """Return a pair whose infrared content lies `length` px away from where it was."""
    angle = np.random.default_rng(derived_seed("shift", sample)).uniform(0, 2 * np.pi)
    matrix = np.array([[1, 0, length * np.cos(angle)], [0, 1, length * np.sin(angle)]])
    shifted = cv2.warpAffine(infrared, matrix, infrared.shape[::-1], flags=cv2.INTER_CUBIC).astype(np.float32)
    inside = slice(MARGIN, -MARGIN)
    return shifted[inside, inside], visible[inside, inside]


def mismatched(pairs: list[tuple[str, Floats, Floats]]) -> Iterator[tuple[Floats, Floats]]:
    """Yield infrared images beside the visible image of the pair half of the set away."""
    for index, (_, infrared, _) in enumerate(pairs):
        _, _, other = pairs[(index + len(pairs) // 2) % len(pairs)]
        height, width = (min(sides) for sides in zip(infrared.shape, other.shape, strict=True))
        yield infrared[:height, :width], other[:height, :width]


def information(infrared: Floats, visible: Floats, right: float, down: float) -> float:
    """Return the mutual information of 24 x 24 levels of equal shares, in nats, once a shift is undone."""
    matrix = np.array([[1, 0, -right], [0, 1, -down]], np.float64)
    back = cv2.warpAffine(infrared, matrix, infrared.shape[::-1])
    levels: list[np.ndarray] = []
    for image in (back, visible):
        inside = image[12:-12, 12:-12].ravel()
        levels.append(np.searchsorted(np.quantile(inside, np.linspace(0, 1, 25)[1:-1]), inside))
    shares = np.histogram2d(levels[0], levels[1], bins=24)[0] / len(levels[0])
    apart = np.outer(shares.sum(axis=1), shares.sum(axis=0))
    return float((shares[shares > 0] * np.log(shares[shares > 0] / apart[shares > 0])).sum())


def as_table(shifts: list[Shift]) -> np.ndarray:
    """Return right, down and confidence of shifts, (N, 3)."""
    return np.array([(each.right, each.down, each.confidence) for each in shifts])


def main() -> None:
    """Measure, print how the limits follow from the rule, and the rates at the limits in use."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--part", choices=("train", "test"), default="test")
    options = parser.parse_args()
    lengths = LENGTHS if options.part == "test" else (3,)
    rows, curve = [], []
    for name, pairs in sets(options.data, options.part).items():
        plain = as_table([estimate_shift(*moved(*each[1:], each[0], 0)) for each in pairs])
        wrong = as_table([estimate_shift(*each) for each in mismatched(pairs)])
        shifted = {
            length: as_table([estimate_shift(*moved(*each[1:], each[0], length)) for each in pairs])
            for length in lengths
        }
        known = plain[:, 2] >= SURE
        middle = np.median(plain[known, :2], axis=0)
        away = {length: np.hypot(*(each[:, :2] - middle).T) for length, each in {0: plain, **shifted}.items()}
        sure = {length: each[:, 2] >= SURE for length, each in {0: plain, **shifted}.items()}
        rates = {length: np.mean((away[length] > FAR) & sure[length]) for length in away}
        alarms = np.flatnonzero((away[0] > FAR) & sure[0])
        real = 0
        for index in alarms:
            images = moved(*pairs[index][1:], pairs[index][0], 0)
            real += information(*images, *plain[index, :2]) > information(*images, *middle)
        print(f"{name}: {real} of {len(alarms)} flagged pairs share more information at their own shift")
        rows.append(
            [name, str(len(pairs)), f"{middle[0]:+.2f}, {middle[1]:+.2f}", f"{100 * rates[0]:.1f} %"]
            + [f"{100 * rates[length]:.1f} %" for length in lengths]
            + [f"{100 * np.mean(~known):.1f} %", f"{100 * np.mean(wrong[:, 2] >= SURE):.1f} %"]
        )
        for limit in np.arange(1.5, 3.01, 0.25):
            flagged, found = (np.mean((away[length] > limit) & sure[length]) for length in (0, 3))
            curve.append([name, f"{limit:.2f}", f"{100 * flagged:.1f} %", f"{100 * found:.1f} %"])
        print(f"{name} shift known of those moved by 3 px: {100 * sure[3].mean():.1f} %")
        print(
            name, "confidence of mismatched pairs, 90, 95, 99 %:", np.quantile(wrong[:, 2], (0.9, 0.95, 0.99))
        )
        print(name, "confidence of pairs, 1, 5, 50 %:", np.quantile(plain[:, 2], (0.01, 0.05, 0.5)))
        for index in np.argsort(-away[0])[:12]:
            print("  ", pairs[index][0], plain[index].round(2), f"{away[0][index]:.2f} px from the median")
    head = ["set", "pairs", "median shift", "flagged as they are"]
    head += [f"found, {length} px" for length in lengths] + ["shift not known", "known of mismatched"]
    print(*format_table(head, rows), "", sep="\n")
    print(*format_table(["set", "limit in px", "flagged as they are", "found, 3 px"], curve), sep="\n")


if __name__ == "__main__":
    main()
