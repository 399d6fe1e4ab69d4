import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipfuse.ops.depth import from_unit, to_bytes, to_levels, to_unit

VALUES = st.lists(st.floats(-0.125, 1.125, width=32), min_size=1, max_size=50)


@given(VALUES)
def test_levels_are_the_bytes_and_halves_are_rounded_up(values: list[float]) -> None:
    image = torch.tensor(values)
    expected = [min(max(math.floor(255 * value + 0.5), 0), 255) for value in values]
    assert to_levels(image).tolist() == expected
    assert to_bytes(image).tolist() == expected
    assert to_levels(255 * image.double(), 255).tolist() == to_levels(image.double()).tolist()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_every_stored_value_survives_the_way_to_the_unit_range_and_back(dtype: torch.dtype) -> None:
    stored = torch.arange(torch.iinfo(dtype).max + 1, dtype=torch.int32).to(dtype)
    unit = to_unit(stored)
    assert (unit.min(), unit.max()) == (0, 1)
    assert torch.equal(from_unit(unit, dtype).int(), stored.int())


def test_floats_keep_their_values() -> None:
    image = torch.tensor([-1.0, 0.3, 2.0], dtype=torch.float64)
    assert torch.equal(from_unit(image, torch.float64), image)
    assert to_unit(image).dtype == torch.float32
    torch.testing.assert_close(to_unit(image), image.float())
