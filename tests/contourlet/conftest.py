"""What the contourlet tests share: the published numbers and flat lists of bands."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from clipfuse.contourlet import ContourletCoefficients

COPY = Path(__file__).parents[1] / "golden/contourlet.npz"
STEP = 5e-6  # impulse responses are kept as multiples of this, a quarter of their tolerance


def cut_down(folder: Path) -> dict[str, np.ndarray]:
    """The part of the full record that is kept with the tests, at most 600 KB.

    One plane of noise with its correct bands and the small ones of the published mode; both impulses
    with all bands of both modes; a quadrant of each (symmetric) filter; the table of gratings.
    """
    full = np.load(folder / "contourlet_synthetic.npz")
    kept = {"rand/x": full["rand/x"][:1, :1], "impulse/x": full["impulse/x"].astype(np.int8)}
    for key in full.files:
        case, mode, *_ = [*key.split("/"), ""]
        if "stacked" in key or key.endswith("/x"):
            continue
        if case == "impulse":
            kept[key] = np.round(full[key] / STEP).astype(np.int32)
        elif case == "rand" and (mode == "fixed" or not key.startswith("rand/ref/4")):
            kept[key] = full[key][:1, :1]
        elif key.endswith(("k0", "k1")):
            half = len(full[key]) // 2 + 1
            kept[key] = full[key][:half, :half]
        elif key.startswith("pfilters"):
            kept[key] = full[key]
    record = json.loads((folder / "contourlet.json").read_text())
    table = next(value for name, value in record.items() if name.startswith("directional_selectivity"))
    return kept | {f"grating/{name}": np.array(shares) for name, shares in table.items()}


@pytest.fixture(scope="session")
def record() -> dict[str, np.ndarray]:
    """Inputs and outputs of the published transform."""
    with np.load(COPY) as stored:
        arrays = dict(stored)
    for key, values in arrays.items():
        if key.startswith("impulse") and not key.endswith("/x"):
            arrays[key] = values * STEP
    return arrays


@pytest.fixture(scope="session")
def flat() -> Callable[[ContourletCoefficients], list[Tensor]]:
    """All bands in one list, lowpass first, coarse to fine."""
    return lambda bands: [bands.lowpass, *(band for level in bands.details for band in level)]
