"""Images that a fusion should not look like: single bands, averages, degraded good images."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from clipfuse.ops.pyramid import soften
from clipfuse.ops.sending import send

Maker = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def _low_contrast(good: Tensor, infrared: Tensor, visible: Tensor, strength: Tensor, grain: Tensor) -> Tensor:
    mean = good.mean(dim=(2, 3), keepdim=True)
    spread = good.std(dim=(2, 3), keepdim=True).clamp(min=0.03)
    return mean + (good - mean) * ((0.055 - 0.035 * strength.view(-1, 1, 1, 1)) / spread).clamp(max=0.5)


MAKERS: Mapping[str, Maker] = {
    "infrared": lambda good, infrared, visible, strength, grain: infrared,
    "visible": lambda good, infrared, visible, strength, grain: visible,
    "average": lambda good, infrared, visible, strength, grain: (infrared + visible) / 2,
    "blur": lambda good, infrared, visible, strength, grain: soften(
        good, (1.2 + 2.8 * strength) / 112, 4 / 112
    ),
    "noise": lambda good, infrared, visible, strength, grain: (
        good + grain * (0.05 + 0.15 * strength.view(-1, 1, 1, 1))
    ),
    "low_contrast": _low_contrast,
}
"""Makers of bad images by kind."""


def bad_pictures(
    kinds: Sequence[str], good: Tensor, infrared: Tensor, visible: Tensor, seeds: Sequence[int]
) -> Tensor:
    """Return one bad image per sample, of a kind drawn at random.

    Kinds: `infrared`, `visible` (a band alone), `average`; and, made of the good image, `blur` (a Gaussian of
    1.2 to 4 px in 112), `noise` (white, standard deviation 0.05 to 0.2) and `low_contrast` (a standard
    deviation of 0.02 to 0.055, or half of the good image's). Strengths are drawn evenly. Own design.

    Args:
        kinds: one or more of the names above.
        good: (N, 1, H, W) in [0, 1].
        infrared: the same shape.
        visible: the same shape.
        seeds: N seeds; the same seed gives the same image.

    Returns:
        (N, 1, H, W) in [0, 1].
    """
    chosen, strengths, grains = [], [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        chosen.append(kinds[int(torch.randint(len(kinds), (), generator=generator))])
        strengths.append(torch.rand((), generator=generator))
        grains.append(torch.randn(good.shape[1:], generator=generator))
    strength, grain = (send(torch.stack(each), good.device, good.dtype) for each in (strengths, grains))
    made = torch.empty_like(good)
    for kind in dict.fromkeys(chosen):
        own = torch.tensor([index for index, other in enumerate(chosen) if other == kind])
        rows = send(own, good.device)
        parts = (value[rows] for value in (good, infrared, visible, strength, grain))
        made[rows] = MAKERS[kind](*parts)
    return made.clamp(0, 1)
