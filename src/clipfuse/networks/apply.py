"""Fusing images with a network that somebody has loaded or written."""

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from clipfuse.errors import UserError
from clipfuse.types import FusionOutput

ROUNDING = 1e-5  # what metrics allow, too: single precision


def passed_planes(
    network: nn.Module, infrared: Tensor, visible: Tensor, chroma: Tensor | None
) -> tuple[Tensor, ...]:
    """Return the inputs of a network: two planes, and the chroma if it is given and the network takes it.

    A network that learns the chroma of the fused image has a true attribute `learns_chroma`, takes the chroma
    of the visible image as a third input, and returns a `FusionOutput` with chroma.
    """
    if chroma is None or not getattr(network, "learns_chroma", False):
        return infrared, visible
    return infrared, visible, chroma


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
    output = _apply(network, what, infrared, visible)
    return _checked(output.fused if isinstance(output, FusionOutput) else output, infrared, what)


def apply_in_color(
    network: nn.Module, infrared: Tensor, visible: Tensor, chroma: Tensor, what: str = "the pair"
) -> tuple[Tensor, Tensor]:
    """Fuse planes as `apply_network` does, and return the chroma of the fused image as well.

    Args:
        network: as for `apply_network`; one with a true `learns_chroma` takes `chroma` as a third input.
        infrared: (N, 1, H, W), float in [0, 1].
        visible: luma of the same shape.
        chroma: Cb and Cr of the visible image, (N, 2, H, W), float in [0, 1].
        what: is fused, for messages.

    Returns:
        The fused luma, and the chroma in [0, 1] of the shape, type and device of `chroma`: that of the
        network if it learns it, else `chroma` itself.

    Raises:
        UserError: as `apply_network`, for the chroma too.
    """
    output = _apply(network, what, *passed_planes(network, infrared, visible, chroma))
    if not isinstance(output, FusionOutput) or output.chroma is None:
        return _checked(output.fused if isinstance(output, FusionOutput) else output, infrared, what), chroma
    return _checked(output.fused, infrared, what), _checked(output.chroma, chroma, what)


def _apply(network: nn.Module, what: str, *planes: Tensor) -> Any:
    like = next(
        (part for part in chain(network.parameters(), network.buffers()) if part.is_floating_point()),
        planes[0],
    )
    modes = {part: part.training for part in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            return network(*(plane.to(like) for plane in planes))
    except (RuntimeError, ValueError) as error:  # too large for this machine, say
        reason = f"{error}\n".splitlines()[0]
        raise UserError(f"{what} cannot be fused: {reason}") from error
    finally:
        for part, training in modes.items():
            part.training = training


def _checked(made: object, source: Tensor, what: str) -> Tensor:
    """Return the luma or chroma that a network has made, like that of the source."""
    if not isinstance(made, Tensor) or made.shape != source.shape:
        found = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise UserError(
            f"{what} cannot be fused: the network returns {found}, expected {tuple(source.shape)}"
        )
    if not bool(made.isfinite().all()):
        raise UserError(f"{what} cannot be fused: the network returns values that are not finite")
    low, high = (float(value) for value in made.aminmax()) if made.numel() else (0.0, 1.0)
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise UserError(
            f"{what} cannot be fused: the network returns values from {low:g} to {high:g}, expected [0, 1], "
            "as its inputs are; end it in a sigmoid, or rescale its output"
        )
    return made.to(source).clamp(0, 1)
