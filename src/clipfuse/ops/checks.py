"""Checks of tensors at the borders of the library."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from clipfuse.types import IGNORED, LossOutput

MOST_IMAGES = 16
"""Images that a loss may return for the log."""


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


def output_fault(output: object) -> str:
    """Return what is wrong with what a loss returned, and what was expected; an empty text if nothing is."""
    if not isinstance(output, LossOutput):
        return f"{type(output).__name__}; expected clipfuse.types.LossOutput(total, terms)"
    total: Any = output.total
    terms: Any = output.terms
    images: Any = output.images
    if not isinstance(total, Tensor) or total.shape != () or not total.is_floating_point():
        return (
            f"its total as {_kind(total)}; expected a floating-point scalar, such as the mean() of a tensor"
        )
    if not isinstance(terms, Mapping):
        return f"its terms as {_kind(terms)}; expected tensors by name"
    for name, term in terms.items():
        if not isinstance(name, str) or not isinstance(term, Tensor) or term.numel() != 1:
            return f"its term {name!r} as {_kind(term)}; expected a scalar tensor by name, detached"
    if not isinstance(images, Mapping) or len(images) > MOST_IMAGES:
        found = f"{len(images)} of them" if isinstance(images, Mapping) else _kind(images)
        return f"its images as {found}; expected at most {MOST_IMAGES} by name"
    for name, image in images.items():
        if not isinstance(name, str) or not _is_image(image):
            return (
                f"its image {name!r} as {_kind(image)}; expected (1, H, W) or (3, H, W), floating point in "
                "[0, 1]: that of one pair of the batch, such as weights[0]"
            )
        if image.requires_grad:
            return f"its image {name!r} with a gradient; expected it without: detach()"
    return ""


def _is_image(image: object) -> bool:
    if not isinstance(image, Tensor) or not image.is_floating_point() or image.ndim != 3:
        return False
    return image.shape[0] in (1, 3) and image.numel() > 0


def _kind(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def unknown_class(classes: Tensor, sample_ids: Sequence[str], count: int, setting: str) -> str:
    """Return which class of a batch a task network does not have, or an empty text; a GPU is read.

    Args:
        classes: (N, H, W), `IGNORED` where there is no label.
        sample_ids: of the N images.
        count: classes of the network.
        setting: that gives it more, for the message.
    """
    most = classes.masked_fill(classes == IGNORED, 0).flatten(1).amax(1)
    if int(most.max()) < count:
        return ""
    at = int(most.argmax())
    return (
        f"{sample_ids[at]} has class {int(most[at])}, and the task network has {count} classes, 0 to "
        f"{count - 1}; set {setting} to the number of classes in the data"
    )
