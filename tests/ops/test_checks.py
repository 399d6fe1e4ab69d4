import numpy as np
import pytest
import torch

from clipfuse.ops.checks import check_planes, check_shapes

PLANE = torch.zeros(2, 1, 4, 5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((2, 1, 4, 5)), r"visible is a numpy\.ndarray; expected a torch\.Tensor"),
        ([0.5], r"visible is a list; expected a torch\.Tensor"),
        (
            PLANE[0, 0],
            r"visible has shape \(4, 5\); .*; add the two axes by image\[None, None\]",
        ),
        (PLANE[0], r"visible has shape \(1, 4, 5\); expected one luma plane, \(N, 1, H, W\)$"),
        (PLANE.expand(-1, 3, -1, -1), r"visible has shape \(2, 3, 4, 5\)"),
        (PLANE[:1], r"infrared has shape \(2, 1, 4, 5\) and visible \(1, 1, 4, 5\); expected one shape"),
    ],
)
def test_what_is_no_plane_is_named(bad: object, message: str) -> None:
    for check in (check_shapes, check_planes):
        with pytest.raises(ValueError, match=message):
            check(infrared=PLANE, visible=bad)


def test_planes_are_floating_point() -> None:
    check_shapes(infrared=PLANE.byte())
    check_planes(infrared=PLANE, visible=PLANE.double())
    with pytest.raises(ValueError, match=r"visible has type torch\.uint8; expected a floating-point plane"):
        check_planes(infrared=PLANE, visible=PLANE.byte())
