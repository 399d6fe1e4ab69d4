"""The part that is enlarged is where the pictures differ most."""

import numpy as np
from PIL import Image

from clipfuse.comparison.insets import most_divided


def test_the_enlarged_part_is_where_pictures_differ_most() -> None:
    generator = np.random.default_rng(0)
    base = generator.integers(0, 200, (60, 100))
    others = [base.copy() for _ in range(3)]
    for place, other in enumerate(others):
        other[20:40, 70:90] += 15 * place
    left, top, side = most_divided([Image.fromarray(each.astype(np.uint8)) for each in others])
    assert side == 20
    assert (left, top) == (70, 20)


def test_pictures_smaller_than_the_part() -> None:
    assert most_divided([Image.new("L", (9, 2)), Image.new("L", (9, 2), 5)]) == (0, 0, 2)
