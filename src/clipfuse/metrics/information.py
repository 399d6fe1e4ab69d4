"""Metrics of information theory: entropy and mutual information of the grey levels."""

import math
from typing import Literal

import torch
from torch import Tensor

from clipfuse.metrics.definition import metric
from clipfuse.metrics.safe import ratio
from clipfuse.metrics.sharing import shared

_LEVELS = 256


@metric("EN", higher_is_better=True, bounds=(0, 8), smallest=1)
def entropy(
    fused: Tensor, infrared: Tensor | None = None, visible: Tensor | None = None, *, log_offset: float = 0.0
) -> Tensor:
    """EN: Shannon entropy of the 256-bin histogram, in bits (Roberts et al., J. Appl. Remote Sens. 2008).

    Keyword Args:
        log_offset: added to each probability inside the logarithm, as some toolkits do against log 0.

    Returns:
        (N,) in [0, 8], less by up to `log_offset` / ln 2 with an offset; higher is better, though noise
        raises it too. 0 for a constant image. No gradient.
    """
    if log_offset == 0:
        bits = grey_entropy(fused) / math.log(2)
    else:
        share = histogram(fused).double() / fused[0].numel()
        bits = -(share * (share + log_offset).log2()).sum(1)
    return bits.to(fused.dtype)


@metric("MI", higher_is_better=True, bounds=(0, 16), smallest=1)
def mutual_information(
    fused: Tensor, infrared: Tensor, visible: Tensor, *, base: float = 2.0, merge_brightest: bool = False
) -> Tensor:
    """MI: MI(F, I) + MI(F, V), from 256 x 256 joint histograms (Qu et al., Electron. Lett. 2002).

    Keyword Args:
        base: of the logarithm: 2 gives bits, e nats.
        merge_brightest: count levels 254 and 255 in one bin, as a program in MATLAB does that takes an 8-bit
            level plus 1 for an index, which is 255 at most.

    Returns:
        (N,) in [0, 16] bits; higher is better. 2 EN if all three are equal; 0 for a constant fused
        image; any one-to-one change of the grey levels, as an inversion, leaves it as it is. No gradient.
    """
    planes = [_merged(plane) if merge_brightest else plane for plane in (fused, infrared, visible)]
    nats = grey_information(planes[0], planes[1]) + grey_information(planes[0], planes[2])
    return (nats / math.log(base)).to(fused.dtype)


@metric("NMI", higher_is_better=True, bounds=(0, 2), smallest=1)
def normalized_mutual_information(
    fused: Tensor,
    infrared: Tensor,
    visible: Tensor,
    *,
    denominator: Literal["with_fused", "of_sources"] = "with_fused",
) -> Tensor:
    """NMI: mutual information over the mean entropy of the pair, summed over both (Hossny et al., 2008).

    2 [MI(F, I) / (H(F) + H(I)) + MI(F, V) / (H(F) + H(V))] (Electron. Lett. 44(18), comments on Qu's MI).

    Keyword Args:
        denominator: "with_fused", Hossny's, or "of_sources": 2 [MI(F, I) + MI(F, V)] / (H(I) + H(V)),
            which does not count what the fused image holds beyond its sources.

    Returns:
        (N,) in [0, 2]; higher is better, 2 if all three are equal. A term 0/0, of constant images,
        counts as 0: a constant has no information to pass on.
    """
    sources = (infrared, visible)
    informations = [grey_information(fused, source) for source in sources]
    if denominator == "with_fused":
        terms = [
            ratio(i, grey_entropy(fused) + grey_entropy(s))
            for i, s in zip(informations, sources, strict=True)
        ]
        halves = terms[0] + terms[1]
    else:
        halves = ratio(informations[0] + informations[1], grey_entropy(infrared) + grey_entropy(visible))
    return (2 * halves).to(fused.dtype)


@shared
def histogram(plane: Tensor) -> Tensor:
    """Return how often each rounded grey level occurs in each image, (N, 256)."""
    return _counts(levels(plane), _LEVELS)


@shared
def joint_histogram(x: Tensor, y: Tensor) -> Tensor:
    """Return how often each pair of rounded grey levels occurs, (N, 256 * 256); half a MB per pair."""
    return _counts(levels(x) * _LEVELS + levels(y), _LEVELS**2)


@shared
def grey_entropy(plane: Tensor) -> Tensor:
    """Return the entropy of each image's grey levels in nats, (N,) float64."""
    return _entropy(histogram(plane), plane.shape[2] * plane.shape[3])


@shared
def grey_information(x: Tensor, y: Tensor) -> Tensor:
    """Return the mutual information of each pair of images' grey levels in nats, (N,) float64."""
    alone = [grey_entropy(x), grey_entropy(y)]
    together = _entropy(joint_histogram(x, y), x.shape[2] * x.shape[3])
    # Within its bounds it is exactly 0 beside a constant image.
    return (alone[0] + alone[1] - together).clamp_min(0).minimum(alone[0]).minimum(alone[1])


@shared
def levels(plane: Tensor) -> Tensor:
    """Return each image's values as whole numbers, halves to even, (N, H * W) int32."""
    return plane.detach().round().int().flatten(1)


@shared
def _merged(plane: Tensor) -> Tensor:
    return plane.clamp_max(254)


def _counts(indices: Tensor, bins: int) -> Tensor:
    images = len(indices)
    if images > 1:
        first = bins * torch.arange(images, dtype=indices.dtype, device=indices.device)
        indices = indices + first.unsqueeze(1)
    return torch.bincount(indices.flatten(), minlength=images * bins).view(images, bins)


def _entropy(counts: Tensor, pixels: int) -> Tensor:
    return torch.special.entr(counts.double() / pixels).sum(1)
