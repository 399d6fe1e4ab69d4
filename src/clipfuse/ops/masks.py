"""From a stored mask or a map of classes to a mask of targets."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

TWO_VALUES = ({0, 1}, {0, 255}, {0, 65535})


def check_levels(levels: Collection[int], classes: Sequence[int] | None) -> None:
    """Require that an image with these values can be a mask: of two values, or a map of known classes.

    Args:
        levels: the values of all its pixels.
        classes: the values that are targets in a map of classes; None for a mask of two values.

    Raises:
        ValueError: it is neither; states the values.
    """
    if classes is None and not any(set(levels) <= pair for pair in TWO_VALUES):
        shown = ", ".join(map(str, sorted(levels)[:10])) + (", ..." if len(levels) > 10 else "")
        raise ValueError(
            f"holds the values {shown}; expected a mask of two values, 0 and 1 or 0 and 255; of a map of "
            "classes name those that are targets, as in mask_classes=[1,2] (--mask-classes 1,2)"
        )


def target_mask(stored: Tensor, classes: Sequence[int] | None = None) -> Tensor:
    """Return where a stored mask has targets.

    Args:
        stored: (..., 1 or 3, H, W), integers, or floating point of 0 and 1; three channels must be equal.
        classes: the values that are targets; by default all but 0.

    Returns:
        (..., 1, H, W) bool.

    Raises:
        ValueError: the channels differ, or as `check_levels`.
    """
    if stored.shape[-3] == 3 and not (stored[..., :1, :, :] == stored).all():
        raise ValueError("is in colour; expected a gray mask, or a map of classes with one number per class")
    plane = stored[..., :1, :, :]
    if plane.is_floating_point():
        if not ((plane == 0) | (plane == 1)).all():
            raise ValueError("holds floating point values other than 0 and 1; expected a mask of two values")
    else:
        plane = plane.int()  # torch compares no uint16
    levels = plane.unique()
    check_levels([int(level) for level in levels], classes)
    return plane != 0 if classes is None else torch.isin(plane, torch.tensor(list(classes)).to(plane))
