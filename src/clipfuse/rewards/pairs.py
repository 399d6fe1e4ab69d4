"""Pairs of fused images of which one is better by construction: a defect is made, or a source left out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from clipfuse.ops.defects import MAKERS
from clipfuse.ops.pyramid import (
    collapse_pyramid,
    detail_maximum,
    energy_fusion,
    laplacian_pyramid,
    soften,
    warm_targets,
)

Maker = Callable[[Tensor, Tensor, Tensor, Generator], Tensor]
_LEAST_TARGET = 0.004  # share of an image that warm targets must have for `cold`


@dataclass(frozen=True)
class Kind:
    """One way to make a fused image worse.

    Attributes:
        make: (good, infrared, visible, generator) -> worse image, (1, 1, H, W).
        scores: the scores that are lower for the worse image; the others are not decided.
        on_good: whether the image it is made of must be a good fusion; else any mixture will do.
        local: whether it is made in a part of the image half of the time, of which the map is then known.
    """

    make: Maker
    scores: tuple[str, ...]
    on_good: bool = False
    local: bool = False


@dataclass(frozen=True)
class Made:
    """A pair of one scene.

    Attributes:
        good: (1, 1, H, W) in [0, 1].
        bad: the same shape.
        where: (1, 1, H, W) in [0, 1], the artefacts of the bad image; the good one has none. None: not known.
        scores: the scores by which the good image is better.
    """

    good: Tensor
    bad: Tensor
    where: Tensor | None
    scores: tuple[str, ...]


def _uniform(low: float, high: float, draws: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=draws))


def _from_defects(kind: str) -> Maker:
    def make(good: Tensor, infrared: Tensor, visible: Tensor, draws: Generator) -> Tensor:
        strength = torch.rand(1, generator=draws).to(good)
        grain = torch.randn(good.shape, generator=draws).to(good)
        return MAKERS[kind](good, infrared, visible, strength, grain)

    return make


def _towards(kind: str) -> Maker:
    """Return a maker that leaves the good image for a trivial fusion, partly or wholly."""

    def make(good: Tensor, infrared: Tensor, visible: Tensor, draws: Generator) -> Tensor:
        one = torch.ones(1)
        return torch.lerp(
            good, MAKERS[kind](good, infrared, visible, one, one), _uniform(0.35, 1.0, draws) ** 0.7
        )

    return make


def _cold(good: Tensor, infrared: Tensor, visible: Tensor, draws: Generator) -> Tensor:
    level = soften(good, 10 / 112)
    share = warm_targets(infrared) * _uniform(0.4, 1.0, draws)
    return good + share * (torch.minimum(visible, level) - good)


def _flat(good: Tensor, infrared: Tensor, visible: Tensor, draws: Generator) -> Tensor:
    details, base = laplacian_pyramid(good, 4)
    gain = _uniform(0.1, 0.6, draws)
    return collapse_pyramid([gain * detail for detail in details], base)


def _ghost(good: Tensor, infrared: Tensor, visible: Tensor, draws: Generator) -> Tensor:
    source = infrared if float(torch.rand((), generator=draws)) < 0.5 else visible
    moves = [int(torch.randint(2, 9, (), generator=draws)) * (1 - 2 * (draw > 0.5)) for draw in _two(draws)]
    details, base = laplacian_pyramid(torch.roll(source, moves, (2, 3)), 4)
    return good + _uniform(0.5, 1.2, draws) * collapse_pyramid(details, torch.zeros_like(base))


def _two(draws: Generator) -> list[float]:
    found: list[float] = torch.rand(2, generator=draws).tolist()
    return found


def _halo(good: Tensor, infrared: Tensor, visible: Tensor, draws: Generator) -> Tensor:
    return good + _uniform(1.0, 4.0, draws) * (good - soften(good, _uniform(1.0, 4.0, draws) / 112))


def _blocks(good: Tensor, infrared: Tensor, visible: Tensor, draws: Generator) -> Tensor:
    size = int(torch.randint(4, 11, (), generator=draws))
    means = F.avg_pool2d(good, size, ceil_mode=True, count_include_pad=False)
    wide = means.repeat_interleave(size, 2).repeat_interleave(size, 3)[..., : good.shape[2], : good.shape[3]]
    return torch.lerp(good, wide, _uniform(0.5, 1.0, draws))


def _pattern(good: Tensor, infrared: Tensor, visible: Tensor, draws: Generator) -> Tensor:
    """Return the image under a regular pattern of 2 to 10 px, as networks leave behind."""
    down, across = (2 * torch.pi / _uniform(2.0, 10.0, draws) for _ in range(2))
    rows = torch.arange(good.shape[2], dtype=good.dtype)[:, None]
    columns = torch.arange(good.shape[3], dtype=good.dtype)
    waves = [torch.cos(down * rows + 0 * columns), torch.cos(across * columns + 0 * rows)]
    choice = int(torch.randint(4, (), generator=draws))
    wave = [*waves, waves[0] * waves[1], (waves[0] * waves[1]).sign()][choice]
    return good + _uniform(0.02, 0.12, draws) * wave.to(good)


def _exposure(good: Tensor, infrared: Tensor, visible: Tensor, draws: Generator) -> Tensor:
    """Return a bright image that is brighter still, or a dark one that is darker."""
    bright = float(good.mean()) > 0.45
    gain, shift = _uniform(1.3, 2.2, draws), _uniform(0.1, 0.3, draws)
    return gain * good + shift if bright else good.clamp(min=1e-4) ** _uniform(1.8, 3.5, draws)


_ARTIFACT = ("artifacts", "overall")
KINDS: Mapping[str, Kind] = {
    "infrared": Kind(_towards("infrared"), ("texture_preservation", "overall"), on_good=True),
    "visible": Kind(_towards("visible"), ("thermal_retention", "overall"), on_good=True),
    "average": Kind(
        _towards("average"), ("thermal_retention", "texture_preservation", "overall"), on_good=True
    ),
    "cold": Kind(_cold, ("thermal_retention", "overall"), on_good=True),
    "flat": Kind(_flat, ("texture_preservation", "sharpness", "overall")),
    "blur": Kind(_from_defects("blur"), ("texture_preservation", "sharpness", "overall")),
    "low_contrast": Kind(
        _from_defects("low_contrast"), ("thermal_retention", "texture_preservation", "overall")
    ),
    "exposure": Kind(_exposure, ("texture_preservation", "overall")),
    "noise": Kind(_from_defects("noise"), _ARTIFACT, local=True),
    "ghost": Kind(_ghost, _ARTIFACT, local=True),
    "halo": Kind(_halo, _ARTIFACT, local=True),
    "blocks": Kind(_blocks, ("artifacts", "sharpness", "overall"), local=True),
    "pattern": Kind(_pattern, _ARTIFACT, local=True),
}
"""Ways to make a fused image worse by name: those of `ops.defects`, and own ones."""


def make_pair(kind: str, infrared: Tensor, visible: Tensor, reference: Tensor | None, seed: int) -> Made:
    """Return a fused image of a scene and a worse one. Own design.

    The better one is drawn from the data's ideal fusion, `detail_maximum` and `energy_fusion`; where the kind
    allows it, also from average, maximum and a random mixture, since a defect lowers any of these. Copies and
    averages are reached partly or wholly. A `cold` image, which lacks its warm targets, is a `visible` copy
    where there are no targets.

    Args:
        kind: one of `KINDS`.
        infrared: (1, 1, H, W) in [0, 1].
        visible: the same shape.
        reference: the ideal fusion, the same shape, or None.
        seed: the same seed gives the same pair.
    """
    draws = torch.Generator().manual_seed(seed)
    if kind == "cold" and float(warm_targets(infrared).mean()) < _LEAST_TARGET:
        kind = "visible"
    rule = KINDS[kind]
    bases = [lambda: detail_maximum(infrared, visible), lambda: energy_fusion(infrared, visible)]
    if reference is not None:
        bases += [lambda: reference] * 2
    if not rule.on_good:
        share = float(torch.rand((), generator=draws))
        bases += [lambda: infrared.maximum(visible), lambda: torch.lerp(infrared, visible, share)]
    good = bases[int(torch.randint(len(bases), (), generator=draws))]().clamp(0, 1)
    bad, where = rule.make(good, infrared, visible, draws), None
    if rule.local:
        where = torch.ones_like(good)
        if float(torch.rand((), generator=draws)) < 0.7:
            where = _blob(good, draws)
            bad = torch.lerp(good, bad, where)
    return Made(good, bad.clamp(0, 1), where, rule.scores)


def _blob(like: Tensor, draws: Generator) -> Tensor:
    """Return a smooth random region, (1, 1, H, W) in [0, 1], of a sixth to a half of the image."""
    rough = torch.randn(1, 1, 4, 4, generator=draws).to(like)
    smooth = F.interpolate(rough, like.shape[-2:], mode="bicubic", align_corners=False)
    border = smooth.quantile(_uniform(0.5, 0.85, draws)) if smooth.numel() < 2**24 else smooth.mean()
    return torch.sigmoid(12 * (smooth - border))
