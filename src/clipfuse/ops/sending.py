"""Between the host's memory and a device, without making the host wait."""

import torch
from torch import Tensor


def send(values: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return values on a device, and in another type if one is given.

    A copy from ordinary memory to a GPU makes the host wait until the GPU has done all that it was given
    before. Here the values are put into page-locked memory first, from which the GPU fetches them in turn.
    """
    values = values.to(dtype or values.dtype)
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def reads_freely(device: torch.device) -> bool:
    """Return whether the host may look at values on a device without a wait: on a CPU alone."""
    return device.type == "cpu"
