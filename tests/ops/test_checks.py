"""Tensors that are no planes are refused by their name."""

import pytest
import torch

from clipfuse.ops.checks import check_planes

PLANE = torch.zeros(2, 1, 5, 7)


def test_planes_of_one_shape_pass() -> None:
    check_planes(fused=PLANE, infrared=PLANE.double(), visible=PLANE.half())


@pytest.mark.parametrize(
    ("visible", "message"),
    [
        (PLANE[0], r"visible has shape \(1, 5, 7\); expected one luma plane, \(N, 1, H, W\)"),
        (PLANE.expand(2, 3, 5, 7), r"visible has shape \(2, 3, 5, 7\); expected one luma plane"),
        (PLANE.byte(), r"visible has type torch\.uint8; expected a floating-point plane in \[0, 1\]"),
        (PLANE[..., 1:], r"fused has shape \(2, 1, 5, 7\) and visible \(2, 1, 5, 6\)"),
        (PLANE[:1], r"fused has shape \(2, 1, 5, 7\) and visible \(1, 1, 5, 7\)"),
    ],
)
def test_what_is_no_plane_is_named(visible: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_planes(fused=PLANE, visible=visible)
