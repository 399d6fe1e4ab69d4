"""Draw `docs/degraded.jpg`: every kind of `clipfuse degrade` at three strengths, on a rendered scene.

python experiments/registration/sheet.py --out FILE [--scene N]
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from clipfuse.data.degraded import KINDS, STRENGTHS, degrade
from clipfuse.data.synthetic.source import render
from clipfuse.ops.depth import to_bytes, to_unit

SIZE = 160
LINE = 18  # px of a line of text
ROWS = 5


def strip(kind: str, pair: tuple[Tensor, Tensor], name: str) -> np.ndarray:
    """Return the clean image of a band that a kind changes, and three degraded ones, under a line of text."""
    band = 1 if "visible" in KINDS[kind].bands else 0
    versions = [pair, *(degrade(kind, strength, *pair, name) for strength in STRENGTHS)]
    images = [to_bytes(each[band]).expand(3, -1, -1).permute(1, 2, 0).numpy() for each in versions]
    head = np.full((LINE, SIZE * len(images), 3), 255, np.uint8)
    cv2.putText(head, kind, (3, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack((head, np.hstack(images)))


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scene", type=int, default=5)
    options = parser.parse_args()
    found = render(0, options.scene, SIZE)
    pair = (to_unit(found.infrared), to_unit(found.visible))
    strips = [strip(kind, pair, "sheet") for kind in KINDS]
    strips.append(np.full_like(strips[0], 255))
    gap = np.full((ROWS * len(strips[0]), 12, 3), 255, np.uint8)
    sheet = np.hstack((np.vstack(strips[:ROWS]), gap, np.vstack(strips[ROWS:])))
    cv2.imwrite(str(options.out), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])


if __name__ == "__main__":
    main()
