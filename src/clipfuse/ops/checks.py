"""Checks of tensors at the borders of the library."""

from torch import Tensor


def check_planes(**planes: Tensor) -> None:
    """Require that all named tensors are floating-point (N, 1, H, W) of one shape.

    Raises:
        ValueError: names the tensor, its shape or type, and what was expected.
    """
    first = None
    for name, plane in planes.items():
        if plane.ndim != 4 or plane.shape[1] != 1:
            raise ValueError(f"{name} has shape {tuple(plane.shape)}; expected one luma plane, (N, 1, H, W)")
        if not plane.is_floating_point():
            raise ValueError(f"{name} has type {plane.dtype}; expected a floating-point plane in [0, 1]")
        if first is not None and plane.shape != planes[first].shape:
            raise ValueError(
                f"{first} has shape {tuple(planes[first].shape)} and {name} {tuple(plane.shape)}; "
                "expected one shape for all"
            )
        first = first or name
