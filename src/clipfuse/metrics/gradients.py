"""Metrics of edges: how many of the sources' edges are kept (Qabf), how many are invented (Nabf)."""

from math import pi
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from clipfuse.metrics.definition import metric
from clipfuse.metrics.sharing import shared

Border = Literal["zero", "mirror"]

PADDING = {"zero": "constant", "mirror": "reflect"}


@metric("Qabf", higher_is_better=True, bounds=(0, 1), smallest=1)
def qabf(
    fused: Tensor,
    infrared: Tensor,
    visible: Tensor,
    *,
    equal_gradient: Literal["one", "gradient"] = "one",
    wrap_angle: bool = True,
) -> Tensor:
    """Qabf: share of the sources' Sobel edges kept in strength and orientation (Xydeas and Petrovic, 2000).

    At each pixel, for each source S, let G be the smaller over the larger of the gradients g_S and
    g_F, and A = 1 - 2 |angle between the two edges| / pi. Kept is

        Q_S = 0.9994 / (1 + exp(-15 (G - 0.5))) * 0.9879 / (1 + exp(-22 (A - 0.8))),

    and the score is sum(Q_I g_I + Q_V g_V) / sum(g_I + g_V). The image is framed by zeros, so that the
    frame of a bright image counts as an edge; an edge without a slope along x has the angle pi/2.

    Keyword Args:
        equal_gradient: G where both gradients are equal: "one", or, as in the published code, the
            fused "gradient" itself.
        wrap_angle: edges have no direction, so that angles are equal modulo pi and A is in [0, 1].
            The published code compares arctangents as they are, and two nearly vertical edges may
            differ by nearly pi.

    Returns:
        (N,) in [0, 1]; higher is better. Three equal images score 0.9748, the constants' largest
        value (0.9753 with "gradient"). Where both sources are black there is no gradient at all,
        0/0: all pixels weigh the same, and a black fused image scores 0.9748 ("gradient": G = 0, 0.0005).
    """
    strength = edge_strength(fused)
    kept, total = fused.new_zeros(len(fused)), fused.new_zeros(len(fused))
    for source in (infrared, visible):
        weight = edge_strength(source)
        ratio = torch.minimum(weight, strength).div_(torch.maximum(weight, strength))
        if equal_gradient == "gradient":
            ratio = torch.where(weight == strength, strength, ratio)
        if wrap_angle:
            alike = _alike(edge_angle(source), edge_angle(fused))
        else:
            alike = 1 - (_arctangent(source) - _arctangent(fused)).abs_().mul_(2 / pi)
        preserved = _sigmoid(ratio, 15, 0.5) * _sigmoid(alike, 22, 0.8)
        kept = kept + _sum(preserved, weight)
        total = total + weight.sum((1, 2, 3))
    return 0.9994 * 0.9879 * kept / total


@metric("Nabf", higher_is_better=False, bounds=(0, 1))
def nabf(
    fused: Tensor,
    infrared: Tensor,
    visible: Tensor,
    *,
    least_weight: float = 0.001,
) -> Tensor:
    """Nabf: weight of the edges that fusion invents (Petrovic and Xydeas, 2005; Shreyamsha Kumar, 2013).

    An artifact is a pixel whose fused gradient is larger than both sources'. Sobel's kernels are
    divided by 8. With G and A as in `qabf`,

        Q_S = sqrt(0.9999 / (1 + exp(-19 (G - 0.5))) * 0.9995 / (1 + exp(-22 (A - 0.5)))),
        w_S = g_S^1.5 where g_S >= 2, else `least_weight`,

    and the score is the sum over artifacts of (1 - Q_I) w_I + (1 - Q_V) w_V, over the sum of all
    w_I + w_V. Around the image lies its mirror without the outermost pixels. Kumar's change is to weigh
    each source's loss by its own weight; before, their sum was weighed by the sum of the weights, and the
    score could exceed 1. Constants and least weight are those of the code by Kumar that toolkits carry;
    they are not checked against the papers.

    Keyword Args:
        least_weight: weight of the pixels of a source without edges; some ports have 0.

    Returns:
        (N,) in [0, 1]; lower is better. 0 if the fused image is one of the sources, or constant: what
        is lost does not count, so use it beside another metric. Without a weight, as with constant
        sources and a least weight of 0, all pixels weigh the same.
    """
    strength, angle = edge_strength(fused, "mirror"), edge_angle(fused, "mirror")
    new = strength > torch.maximum(edge_strength(infrared, "mirror"), edge_strength(visible, "mirror"))
    lost, total = fused.new_zeros(len(fused)), fused.new_zeros(len(fused))
    for source in (infrared, visible):
        gradient = edge_strength(source, "mirror")
        # Elsewhere than at artifacts the ratio does not matter.
        preserved = _sigmoid(gradient / strength, 19, 0.5) * _sigmoid(
            _alike(edge_angle(source, "mirror"), angle), 22, 0.5
        )
        eighth = gradient / 8
        weight = torch.where(eighth >= 2, eighth * eighth.sqrt(), max(least_weight, 1e-30))
        lost = lost + _sum(1 - (0.9999 * 0.9995 * preserved).sqrt(), weight * new)
        total = total + weight.sum((1, 2, 3))
    return lost / total


@shared
def edge_strength(plane: Tensor, border: Border = "zero") -> Tensor:
    """Return the magnitude of Sobel's gradient, (N, 1, H, W), at most 1020 sqrt(2).

    Where it vanishes it is some 1e-154 (float64) and not 0: ratios and derivatives stay finite.
    """
    x, y = sobel(plane, border)
    return (x * x).addcmul_(y, y).clamp_(min=torch.finfo(plane.dtype).tiny).sqrt_()


@shared
def edge_angle(plane: Tensor, border: Border = "zero") -> Tensor:
    """Return the direction of Sobel's gradient in (-pi, pi], (N, 1, H, W); pi/2 wherever its x is 0."""
    x, y = sobel(plane, border)
    return torch.atan2(torch.where(x == 0, 1, y), x)


@shared
def _arctangent(plane: Tensor) -> Tensor:
    """Return arctan(y / x) of Sobel's gradient in (-pi/2, pi/2]; pi/2 where x is 0."""
    angle = edge_angle(plane)
    return angle - (angle / pi).round_().mul_(pi)  # torch's atan takes twice the time of atan2


@shared
def sobel(plane: Tensor, border: Border = "zero") -> tuple[Tensor, Tensor]:
    """Return Sobel's slopes: to the left (x) and down (y), as a convolution with the usual kernels gives.

    Args:
        plane: (N, 1, H, W), any floating type.
        border: "zero", or "mirror" without the outermost pixels.

    Returns:
        Two of (N, 1, H, W), not scaled: in -1020..1020 for a plane in 0..255.
    """
    plane = pad(plane, (1, 1, 1, 1), PADDING[border])
    smooth = plane[:, :, :-2] + plane[:, :, 2:] + 2 * plane[:, :, 1:-1]
    steps = plane[:, :, 2:] - plane[:, :, :-2]
    return smooth[..., :-2] - smooth[..., 2:], steps[..., :-2] + steps[..., 2:] + 2 * steps[..., 1:-1]


def _alike(one: Tensor, other: Tensor) -> Tensor:
    # 1 at a turn by 0, pi and 2 pi, 0 at a quarter turn more.
    return (one - other).abs_().sub_(pi).abs_().sub_(pi / 2).abs_().mul_(2 / pi)


def _sigmoid(values: Tensor, slope: float, middle: float) -> Tensor:
    # In place: the values are always fresh.
    return values.sub_(middle).mul_(slope).sigmoid_()


def _sum(values: Tensor, weights: Tensor) -> Tensor:
    return torch.bmm(values.flatten(1)[:, None], weights.flatten(1)[..., None])[:, 0, 0]
