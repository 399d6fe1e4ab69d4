"""The trivial fusions: copies, average and maximum, which every table shows beside the methods."""

import torch
from torch import Tensor

from clipfuse.ops.depth import to_bytes, to_unit


def baselines(infrared: Tensor, visible: Tensor) -> dict[str, Tensor]:
    """Return the trivial fusions of 8-bit sources.

    Args:
        infrared: luma, (N, 1, H, W) in [0, 1]; rounded to 8 bits first.
        visible: the same.

    Returns:
        "baseline:infrared", "baseline:visible", "baseline:average" (halves are rounded up) and
        "baseline:maximum", each (N, 1, H, W) float32 in [0, 1] with 8-bit values.
    """
    first, second = to_bytes(infrared), to_bytes(visible)
    average = ((first.int() + second.int() + 1) // 2).byte()
    planes = {
        "infrared": first,
        "visible": second,
        "average": average,
        "maximum": torch.maximum(first, second),
    }
    return {f"baseline:{name}": to_unit(plane) for name, plane in planes.items()}
