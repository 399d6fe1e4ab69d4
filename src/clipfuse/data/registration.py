"""Whether infrared and visible images lie on each other: the shift between them, and pairs that stand out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray

REACH = 12  # px that a shift may have, to each side
LONGEST = 640  # px of a side; larger images are reduced
SMALLEST = 64  # px of a side; smaller images are not judged
FAR = 2.25  # px from the set's shift: beyond, a pair is flagged
SURE = 0.045  # confidence: below, the shift is not known
WHOLE = 1.0  # px of the set's own shift: beyond, there is a warning
FEW = 5  # pairs of known shift: with fewer, no shift counts as the set's own
_BLOCKS, _PITCH, _OVERLAP = (4, 5), 48, 1.4
_RIDGE = 0.09
_SIDE = 85  # px of the blocks on which `SURE` was chosen

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Shift:
    """Where the infrared image lies on the visible one.

    Attributes:
        right: px by which its content lies further to the right than in the visible image.
        down: px by which it lies lower.
        confidence: the normalised correlation there above the median of all places, mean over blocks; times
            the side of the blocks over 85 px where they are smaller. Below `SURE` the shift is not known.
    """

    right: float
    down: float
    confidence: float

    @property
    def known(self) -> bool:
        """Whether there was enough structure to find it."""
        return self.confidence >= SURE


def estimate_shift(infrared: Floats, visible: Floats) -> Shift:
    """Estimate by how much an infrared image is shifted against the visible one, below one pixel.

    Normalised gradient fields (Haber and Modersitzki, MICCAI 2006) are correlated, as their squares, which do
    not depend on which side of an edge is brighter: with the gradient g of an image blurred by a Gaussian of
    1 px, and the double angle of it,

        f = (g_x^2 - g_y^2, 2 g_x g_y) / (|g|^2 + 0.09 mean |g|^2).

    Up to 4 x 5 blocks that overlap, under square roots of Hann windows, have each a normalised correlation
    of f by Fourier transforms. Own design: as near things lie elsewhere than far ones (parallax), each
    block's surface has its median taken off and its neighbours' maximum put in (1 px up, down, left, right);
    their sum, blurred by 0.7 px, has the shift at its highest place, refined by parabolas.

    Args:
        infrared: (H, W) float; its scale does not matter.
        visible: the same shape.

    Returns:
        The shift, in px of the given images. Of images with a side below 64 px, or without any structure,
        the confidence is 0.
    """
    height, width = infrared.shape
    if min(height, width) < SMALLEST:
        return Shift(0.0, 0.0, 0.0)
    scale = max(1.0, max(height, width) / LONGEST)
    size = (max(SMALLEST, round(width / scale)), max(SMALLEST, round(height / scale)))
    fields = [_field(image, size if scale > 1 else None) for image in (infrared, visible)]
    surface = np.zeros((2 * REACH + 1, 2 * REACH + 1), np.float32)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    blocks = _blocks(size[1], size[0])
    for rows, columns in blocks:
        found = _correlation(*(field[:, rows, columns] for field in fields))
        surface += np.asarray(cv2.dilate(found - np.median(found), cross), np.float32) / len(blocks)
    blurred = cv2.GaussianBlur(surface, (0, 0), 0.7, borderType=cv2.BORDER_REFLECT)
    rows, columns = blocks[0]
    side = ((rows.stop - rows.start) * (columns.stop - columns.start)) ** 0.5
    return _peak(np.asarray(blurred, np.float32), scale, min(1.0, side / _SIDE))


def _field(image: Floats, size: tuple[int, int] | None) -> Floats:
    plane: np.ndarray = image.astype(np.float32)
    if size:
        plane = cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
    plane = cv2.GaussianBlur(plane, (0, 0), 1.0)
    across, along = cv2.Scharr(plane, cv2.CV_32F, 1, 0), cv2.Scharr(plane, cv2.CV_32F, 0, 1)
    energy = across * across + along * along
    energy += _RIDGE * energy.mean() + np.float32(1e-20)
    return np.stack(((across * across - along * along) / energy, 2 * across * along / energy))


def _blocks(height: int, width: int) -> list[tuple[slice, slice]]:
    places = []
    for side, most in zip((height, width), _BLOCKS, strict=True):
        count = min(most, max(1, side // _PITCH))
        length = side if count == 1 else int(_OVERLAP * side / count)
        starts = np.linspace(0, side - length, count).astype(int)
        places.append([slice(start, start + length) for start in starts])
    return [(rows, columns) for rows in places[0] for columns in places[1]]


@cache
def _window(height: int, width: int) -> Floats:
    return np.sqrt(np.outer(np.hanning(height), np.hanning(width))).astype(np.float32)


def _correlation(first: Floats, second: Floats) -> Floats:
    """Return the normalised correlation of two blocks (2, H, W) at all shifts, (2 REACH + 1)^2; 0 if flat."""
    window = _window(*first.shape[1:])
    first, second = first * window, second * window
    energy = float(np.sqrt((first * first).sum() * (second * second).sum()))
    if energy < 1e-6:
        return np.zeros((2 * REACH + 1, 2 * REACH + 1), np.float32)
    size = [scipy.fft.next_fast_len(side + REACH, real=True) for side in first.shape[1:]]
    product = scipy.fft.rfft2(first, size) * scipy.fft.rfft2(second, size).conj()
    surface = scipy.fft.irfft2(product.sum(axis=0), size)
    turned = np.roll(surface, (REACH, REACH), (0, 1))[: 2 * REACH + 1, : 2 * REACH + 1]
    return np.asarray(turned / energy, np.float32)


def _peak(surface: Floats, scale: float, trust: float) -> Shift:
    row, column = (int(place) for place in np.unravel_index(int(surface.argmax()), surface.shape))
    confidence = trust * float(surface[row, column] - np.median(surface))
    down = row + _refined(surface[:, column], row) - REACH
    right = column + _refined(surface[row], column) - REACH
    return Shift(right * scale, down * scale, confidence)


def _refined(line: Floats, place: int) -> float:
    """Return the top of the parabola through three values, from the middle one; 0 at the border."""
    if not 0 < place < len(line) - 1:
        return 0.0
    left, middle, right = (float(value) for value in line[place - 1 : place + 2])
    curve = 2 * middle - left - right
    return (right - left) / (2 * curve) if curve > 0 else 0.0


@dataclass(frozen=True)
class Registration:
    """The shifts of the pairs of a set.

    Attributes:
        shifts: by the names of the pairs, the farthest from the set's shift first, those not known last.
        right: px, the median of the known shifts; 0 of fewer than `FEW`.
        down: the same.
        limits: px beyond which each pair is flagged: `FAR`, times the reduction of a large image.
    """

    shifts: Mapping[str, Shift]
    right: float
    down: float
    limits: Mapping[str, float]

    def distance(self, name: str) -> float:
        """Return how far the shift of a pair lies from that of the set, in px."""
        shift = self.shifts[name]
        return float(np.hypot(shift.right - self.right, shift.down - self.down))

    @property
    def flagged(self) -> Sequence[str]:
        """The pairs whose shift is known and too far from that of the set."""
        return [
            name
            for name, shift in self.shifts.items()
            if shift.known and self.distance(name) > self.limits[name]
        ]

    @property
    def unknown(self) -> Sequence[str]:
        """The pairs whose shift is not known."""
        return [name for name, shift in self.shifts.items() if not shift.known]


def judge_set(shifts: Mapping[str, Shift], sizes: Mapping[str, tuple[int, int]]) -> Registration:
    """Compare the shifts of the pairs of a set with their median.

    Args:
        shifts: of the pairs, by their names.
        sizes: of their images, (height, width).
    """
    known = [(shift.right, shift.down) for shift in shifts.values() if shift.known]
    right, down = (float(value) for value in np.median(known, axis=0)) if len(known) >= FEW else (0.0, 0.0)
    limits = {name: FAR * max(1.0, max(size) / LONGEST) for name, size in sizes.items()}
    found = Registration(shifts, right, down, limits)

    def order(name: str) -> tuple[bool, float]:
        return not shifts[name].known, -found.distance(name) / limits[name]

    return Registration({name: shifts[name] for name in sorted(shifts, key=order)}, right, down, limits)
