"""Fusing images with a network that somebody has loaded or written."""

from itertools import chain

import torch
from torch import Tensor, nn

from clipfuse.errors import UserError
from clipfuse.types import FusionOutput

ROUNDING = 1e-5  # what metrics allow, too: single precision


def apply_network(network: nn.Module, infrared: Tensor, visible: Tensor, what: str = "the pair") -> Tensor:
    """Fuse planes with a network in eval mode, without gradient, on its device and in its precision.

    Args:
        network: of (infrared, visible); it returns a `FusionOutput` or the fused luma. Its mode is kept.
        infrared: (N, 1, H, W), float in [0, 1].
        visible: luma of the same shape.
        what: is fused, for messages.

    Returns:
        The fused luma in [0, 1], of the shape, type and device of `infrared`.

    Raises:
        UserError: the network fails, or returns another shape, values that are not finite, or values
            outside of [0, 1] by more than `ROUNDING`.
    """
    like = next(
        (part for part in chain(network.parameters(), network.buffers()) if part.is_floating_point()),
        infrared,
    )
    modes = {part: part.training for part in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            output = network(infrared.to(like), visible.to(like))
    except (RuntimeError, ValueError) as error:  # too large for this machine, say
        reason = f"{error}\n".splitlines()[0]
        raise UserError(f"{what} cannot be fused: {reason}") from error
    finally:
        for part, training in modes.items():
            part.training = training
    fused = output.fused if isinstance(output, FusionOutput) else output
    if not isinstance(fused, Tensor) or fused.shape != infrared.shape:
        found = tuple(fused.shape) if isinstance(fused, Tensor) else type(fused).__name__
        raise UserError(
            f"{what} cannot be fused: the network returns {found}, expected {tuple(infrared.shape)}"
        )
    if not bool(fused.isfinite().all()):
        raise UserError(f"{what} cannot be fused: the network returns values that are not finite")
    low, high = (float(value) for value in fused.aminmax()) if fused.numel() else (0.0, 1.0)
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise UserError(
            f"{what} cannot be fused: the network returns values from {low:g} to {high:g}, expected [0, 1], "
            "as its inputs are; end it in a sigmoid, or rescale its output"
        )
    return fused.to(infrared).clamp(0, 1)
