"""Registering a pair of opaque operators, each other's backward.

Opaque to `torch.compile` and `torch.export`: one node each in a graph. They are defined
through the dispatcher, not by `torch.library.custom_op`, whose first call imports the compiler (1 s).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ANALYSIS = "(Tensor planes, int[] levels, str pyramid, str directional, str kind) -> Tensor[]"
SYNTHESIS = "(Tensor[] bands, int[] levels, str pyramid, str directional, str kind) -> Tensor"
Arguments = tuple[list[int], str, str, str]
Operator = Callable[..., Any]


def register_pair(
    name: str,
    analyse: Callable[..., list[Tensor]],
    synthesise: Callable[..., Tensor],
    shapes: Callable[[list[int], tuple[int, int]], list[tuple[int, int]]],
    size: Callable[[list[int], tuple[int, int]], tuple[int, int]],
    adjoint: dict[str, str],
) -> tuple[Operator, Operator]:
    """Register clipfuse::<name>_analysis and clipfuse::<name>_synthesis.

    Args:
        name: start of the operators' names.
        analyse: planes (P, H, W), then `Arguments` -> bands (P, h, w), lowpass first.
        synthesise: bands, then `Arguments` -> planes.
        shapes: sizes of all bands, from levels and (H, W).
        size: (H, W), from levels and the lowpass's size.
        adjoint: the kind of operator that is the adjoint of each kind.

    Returns:
        The two operators.
    """
    first, second = f"clipfuse::{name}_analysis", f"clipfuse::{name}_synthesis"
    torch.library.define(first, ANALYSIS)
    torch.library.define(second, SYNTHESIS)
    torch.library.impl(first, "CompositeExplicitAutograd")(analyse)
    torch.library.impl(second, "CompositeExplicitAutograd")(synthesise)
    analysis: Operator = getattr(torch.ops.clipfuse, f"{name}_analysis")
    synthesis: Operator = getattr(torch.ops.clipfuse, f"{name}_synthesis")

    def fake_analysis(planes: Tensor, levels: list[int], *_: str) -> list[Tensor]:
        own = shapes(levels, (planes.shape[1], planes.shape[2]))
        return [planes.new_empty(planes.shape[0], *shape) for shape in own]

    def fake_synthesis(bands: list[Tensor], levels: list[int], *_: str) -> Tensor:
        own = size(levels, (bands[0].shape[1], bands[0].shape[2]))
        return bands[0].new_empty(bands[0].shape[0], *own)

    def remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.arguments = (*inputs[1:-1], adjoint[inputs[-1]])

    def analysis_backward(ctx: Any, gradients: list[Tensor]) -> tuple[Any, ...]:
        return synthesis(gradients, *ctx.arguments), None, None, None, None

    def synthesis_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        return analysis(gradient, *ctx.arguments), None, None, None, None

    torch.library.register_fake(first, fake_analysis)
    torch.library.register_fake(second, fake_synthesis)
    torch.library.register_autograd(first, analysis_backward, setup_context=remember)
    torch.library.register_autograd(second, synthesis_backward, setup_context=remember)
    return analysis, synthesis
