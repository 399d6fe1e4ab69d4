"""The trivial fusions: copies, average and maximum, which every table shows beside the methods."""

import torch
from torch import Tensor

from clipfuse.ops.depth import to_bytes, to_unit


def trivial_fusions(infrared: Tensor, visible: Tensor) -> dict[str, Tensor]:
    """Return the trivial fusions of 8-bit sources.

    Args:
        infrared: luma, (N, 1, H, W) in [0, 1]; rounded to 8 bits first. Or RGB, (N, 3, H, W).
        visible: the same.

    Returns:
        "trivial:infrared", "trivial:visible", "trivial:average" (halves are rounded up) and
        "trivial:maximum", each (N, 1 or 3, H, W) float32 in [0, 1] with 8-bit values.
    """
    first, second = to_bytes(infrared), to_bytes(visible)
    average = ((first.int() + second.int() + 1) // 2).byte()
    planes = {
        "infrared": first,
        "visible": second,
        "average": average,
        "maximum": torch.maximum(first, second),
    }
    return {f"trivial:{name}": to_unit(plane) for name, plane in planes.items()}
