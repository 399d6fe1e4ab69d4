"""Which stored values are black and white.

By default the file's own tags decide: 255 in 8 bits, 4095 in a TIFF of 12 bits, 65535 in 16 bits, 1 in
floats. Thermal cameras often write 12 or 14 bits, or hundredths of a kelvin, into files of 16 bits; then a
range must be set. It applies to files of more than 8 bits alone, so that one range serves both bands where
the visible images are ordinary ones.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from clipfuse.errors import UserError

EXPECTED = (
    "null, [lo,hi], bits:N with N from 9 to 32, percentile, or one of these for each band as "
    "{infrared: [lo,hi], visible: null}"
)
PERCENTILES = (0.1, 99.9)
_BANDS = ("infrared", "visible")


@dataclass(frozen=True)
class Range:
    """The stored values that become 0 and 1; those beyond them are cut off.

    Attributes:
        limits: the two values; None: `PERCENTILES` of each image's own values, which makes images of one
            set, or frames of a video, incomparable in brightness.
        word: as it was set.
    """

    limits: tuple[float, float] | None
    word: str

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return stored values of any number type and shape as float32 in [0, 1]; a flat image is 0."""
        low, high = self.limits or map(float, np.percentile(values, PERCENTILES))
        unit = np.empty(values.shape, np.float32)
        # In float64, by small blocks: 32-bit integers keep their differences.
        np.subtract(values, low, out=unit, dtype=np.float64, casting="unsafe")
        unit /= max(high - low, 1e-30)
        return unit.clip(0, 1, out=unit)


@dataclass(frozen=True)
class Ranges:
    """The range of each band; None where the files' own tags decide."""

    infrared: Range | None = None
    visible: Range | None = None

    def __bool__(self) -> bool:
        """Whether any is set."""
        return self.infrared is not None or self.visible is not None


def read_ranges(setting: Any, word: str = "data.range") -> Ranges:
    """Return the ranges that a setting describes.

    Args:
        setting: None, (lo, hi), "bits:14", "percentile", "lo,hi", or a mapping of such to `infrared` and
            `visible`; a text may also be "infrared=..." or "visible=...".
        word: the setting's name, for messages.

    Raises:
        UserError: it is none of these.
    """
    if isinstance(setting, Ranges):
        return setting
    if isinstance(setting, str) and (match := re.fullmatch(r"(infrared|visible)=(.*)", setting.strip())):
        setting = {match[1]: match[2]}
    if isinstance(setting, Mapping):
        if unknown := [str(key) for key in setting if key not in _BANDS]:
            raise UserError(f"{word} names '{unknown[0]}'; expected {EXPECTED}")
        return Ranges(*(_read(setting.get(band), f"{word}.{band}") for band in _BANDS))
    one = _read(setting, word)
    return Ranges(one, one)


def _read(setting: Any, word: str) -> Range | None:
    if setting is None or (isinstance(setting, str) and setting.strip().lower() in ("", "null", "none")):
        return None
    given = setting
    if isinstance(setting, str):
        text = setting.strip().strip("[]()")
        if text.lower() == "percentile":
            return Range(None, "percentile")
        match = re.fullmatch(r"bits *[=:] *(\d{1,2})", text.lower())
        if match and 9 <= (bits := int(match[1])) <= 32:
            return Range((0.0, 2.0**bits - 1), f"bits:{bits}")
        setting = text.split(",")
    if isinstance(setting, Sequence) and not isinstance(setting, str) and len(setting) == 2:
        try:
            low, high = (float(each) for each in setting)
        except (TypeError, ValueError):
            low = high = 0.0
        if isfinite(low) and isfinite(high) and low < high and not any(isinstance(e, bool) for e in setting):
            return Range((low, high), f"[{low:.9g},{high:.9g}]")
    raise UserError(f"{word} is {given!r}; expected {EXPECTED}")
