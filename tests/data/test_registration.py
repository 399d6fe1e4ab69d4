"""Shifts that are known, a correlation written out, and a set in which one pair stands out."""

import cv2
import numpy as np
import pytest

from clipfuse.data.registration import (
    FAR,
    REACH,
    SURE,
    Floats,
    Shift,
    _blocks,
    _correlation,
    estimate_shift,
    judge_set,
)


def scene(height: int, width: int, seed: int = 0) -> Floats:
    """Return random rectangles of random levels."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width), 0.5, np.float32)
    for _ in range(height * width // 400):
        top, left = rng.integers(height), rng.integers(width)
        high, wide = rng.integers(6, 30, 2)
        image[top : top + high, left : left + wide] = rng.uniform(0, 1)
    return image


def pair(right: float, down: float, size: tuple[int, int] = (180, 240)) -> tuple[Floats, Floats]:
    """Return a scene in both bands, in infrared with other levels, inverted in part, noisy and shifted."""
    height, width = size[0] + 40, size[1] + 40
    visible = scene(height, width)
    infrared = np.where(np.arange(width) < width // 2, 0.9 - 0.7 * visible, visible**2).astype(np.float32)
    matrix = np.array([[1, 0, right], [0, 1, down]], np.float64)
    infrared = cv2.warpAffine(infrared, matrix, (width, height), flags=cv2.INTER_CUBIC)
    infrared += 0.02 * np.random.default_rng(1).standard_normal(infrared.shape, np.float32)
    return infrared[20:-20, 20:-20], visible[20:-20, 20:-20]


@pytest.mark.parametrize(("right", "down"), [(0, 0), (3, 0), (-2.5, 4.25), (0.5, -9)])
def test_a_shift_is_found_to_a_fraction_of_a_pixel(right: float, down: float) -> None:
    shift = estimate_shift(*pair(right, down))
    # Own estimate: the parabola of a blurred surface is off by up to a fifth of a pixel.
    assert (shift.right, shift.down) == pytest.approx((right, down), abs=0.2)
    assert shift.known
    scaled = estimate_shift(*(1e-3 * each for each in pair(right, down)))
    assert (scaled.right, scaled.down) == pytest.approx((shift.right, shift.down), abs=0.02)


def test_a_large_image_is_reduced_and_its_shift_is_not() -> None:
    infrared, visible = pair(8, -4, (480, 1280))
    shift = estimate_shift(infrared, visible)
    assert (shift.right, shift.down) == pytest.approx((8, -4), abs=0.4)


def test_without_structure_a_shift_is_not_known() -> None:
    _, visible = pair(0, 0)
    assert not estimate_shift(np.full_like(visible, 0.5), visible).known
    assert estimate_shift(visible[:63], visible[:63]) == Shift(0, 0, 0)
    small = estimate_shift(visible[:64, :70], visible[:64, :70])
    assert (small.right, small.known) == (pytest.approx(0, abs=0.05), True)
    other = [estimate_shift(scene(240, 320, seed), scene(240, 320, seed + 9)) for seed in range(8)]
    assert sum(shift.known for shift in other) <= 1


def test_the_correlation_is_the_sum_over_all_shifts() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.standard_normal((2, 2, 20, 17))
    found = _correlation(first.astype(np.float32), second.astype(np.float32))
    window = np.sqrt(np.outer(np.hanning(20), np.hanning(17)))
    first, second = first * window, second * window
    energy = np.sqrt((first**2).sum() * (second**2).sum())
    for down, right in ((0, 0), (3, -2), (-REACH, REACH), (5, 5)):
        total = 0.0
        for row in range(20):
            for column in range(17):
                if 0 <= row + down < 20 and 0 <= column + right < 17:
                    total += float(first[:, row + down, column + right] @ second[:, row, column])
        # Transforms in float32 of values up to 4: rounding of some 1e-6 of the energy.
        assert found[REACH + down, REACH + right] == pytest.approx(total / energy, abs=1e-5)


def test_blocks_cover_the_image() -> None:
    for size in ((32, 32), (50, 300), (480, 640)):
        covered = np.zeros(size, bool)
        for rows, columns in _blocks(*size):
            covered[rows, columns] = True
        assert covered.all()
    assert len(_blocks(480, 640)) == 20
    assert len(_blocks(32, 32)) == 1


def test_a_pair_is_compared_with_the_median_of_its_set() -> None:
    shifts = {str(index): Shift(1.5, 0.5 + 0.01 * index, 0.2) for index in range(6)}
    shifts |= {"far": Shift(1.5, 0.5 + FAR + 0.2, 0.2), "odd": Shift(-9.0, 3.0, SURE / 2)}
    judged = judge_set(shifts, dict.fromkeys(shifts, (240, 320)))
    assert (judged.right, judged.down) == pytest.approx((1.5, 0.53))
    assert judged.flagged == ["far"]
    assert judged.unknown == ["odd"]
    assert next(iter(judged.shifts)) == "far"
    assert list(judged.shifts)[-1] == "odd"
    large = judge_set(shifts, dict.fromkeys(shifts, (960, 1280)))
    assert large.flagged == []  # the limit is in px of the reduced image
    few = judge_set({name: shifts[name] for name in ("0", "1", "far")}, dict.fromkeys(shifts, (240, 320)))
    assert (few.right, few.down) == (0, 0)
    assert few.flagged == ["far"]
