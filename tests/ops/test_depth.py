"""One rounding between stored values and [0, 1]."""

import pytest
import torch

from clipfuse.ops.depth import from_unit, to_bytes, to_levels, to_unit


@pytest.mark.parametrize(("dtype", "most"), [(torch.uint8, 255), (torch.uint16, 65535)])
def test_the_largest_number_is_one(dtype: torch.dtype, most: int) -> None:
    stored = torch.tensor([0, 1, most // 2, most], dtype=torch.int64).to(dtype)
    unit = to_unit(stored)
    assert unit.dtype == torch.float32
    assert torch.equal(unit, torch.tensor([0, 1, most // 2, most]) / most)
    assert torch.equal(from_unit(unit, dtype).long(), stored.long())


def test_halves_are_rounded_up_and_what_lies_outside_is_clamped() -> None:
    levels = torch.tensor([-3.0, -0.4, 0.49, 0.5, 1.5, 2.5, 254.5, 255.4, 300.0], dtype=torch.float64)
    expected = [0, 0, 0, 1, 2, 3, 255, 255, 255]
    assert to_bytes(levels / 255).tolist() == expected
    assert to_levels(levels / 255).tolist() == expected
    assert (to_bytes(levels).dtype, to_levels(levels.float()).dtype) == (torch.uint8, torch.float64)


def test_floats_keep_their_values() -> None:
    values = torch.tensor([-0.5, 0.25, 1.5])
    assert torch.equal(to_unit(values), values)
    assert torch.equal(from_unit(values, torch.float64), values.double())
