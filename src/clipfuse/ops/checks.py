"""Checks of tensors at the borders of the library."""

from torch import Tensor


def check_shapes(**planes: object) -> None:
    """Require that all named planes are tensors (N, 1, H, W) of one shape.

    Raises:
        ValueError: names the plane, its type or shape, and what was expected.
    """
    first: tuple[str, Tensor] | None = None
    for name, plane in planes.items():
        if not isinstance(plane, Tensor):
            found = f"{type(plane).__module__}.{type(plane).__qualname__}".removeprefix("builtins.")
            raise ValueError(f"{name} is a {found}; expected a torch.Tensor, as torch.as_tensor(image) gives")
        if plane.ndim != 4 or plane.shape[1] != 1:
            advice = "; add the two axes by image[None, None]" if plane.ndim == 2 else ""
            raise ValueError(
                f"{name} has shape {tuple(plane.shape)}; expected one luma plane, (N, 1, H, W){advice}"
            )
        first = first or (name, plane)
        if plane.shape != first[1].shape:
            raise ValueError(
                f"{first[0]} has shape {tuple(first[1].shape)} and {name} {tuple(plane.shape)}; "
                "expected one shape for all"
            )


def check_planes(**planes: Tensor) -> None:
    """Require that all named planes are floating-point tensors (N, 1, H, W) of one shape.

    Raises:
        ValueError: names the plane, its shape or type, and what was expected.
    """
    check_shapes(**planes)
    for name, plane in planes.items():
        if not plane.is_floating_point():
            raise ValueError(f"{name} has type {plane.dtype}; expected a floating-point plane in [0, 1]")
