"""Similarities of embeddings whose gradients are finite also where the formula has none."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def safe_unit(vectors: Tensor, shortest: float = 1e-6) -> Tensor:
    """Return vectors of length 1, as v / max(|v|, shortest).

    Own design: exact for all vectors at least `shortest` long; below, linear, so that value and gradient
    are finite even at zero; the gradient there is 1 / shortest at most and not zero.

    Args:
        vectors: (..., D).
        shortest: length from which on the result has length 1; above 0.
    """
    squared = (vectors * vectors).sum(dim=-1, keepdim=True)
    return vectors / squared.clamp(min=shortest**2).sqrt()


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine similarity, in [-1, 1]; 0 where a vector is zero.

    Args:
        first: (..., D).
        second: (..., D), of a shape that broadcasts with `first`.

    Returns:
        (...).
    """
    return (safe_unit(first) * safe_unit(second)).sum(dim=-1)


def direction_loss(
    image: Tensor, source_image: Tensor, text: Tensor, source_text: Tensor, shortest: float = 1e-3
) -> Tensor:
    """Return 1 - cosine of (image - source image) and (text - source text), per sample, in [0, 2].

    Both are differences of unit vectors in the embedding space of CLIP (StyleGAN-NADA, Gal et al., arXiv
    2108.00946, eq. 2). Where image and source image are equal, the loss is 1 and its gradient finite.
    LDFusion (arXiv 2402.16267) uses half of this, once per band.

    Args:
        image: (N, D). No argument needs to be normalised.
        source_image: (N, D) or (D,).
        text: (N, D) or (D,).
        source_text: (N, D) or (D,).
        shortest: length below which a difference is not brought to length 1. The gradient is 1 / shortest at
            most, in units of a unit embedding; 1e-3 is a cosine of 0.9999995.

    Returns:
        (N,).
    """
    moved = safe_unit(image) - safe_unit(source_image)
    wanted = safe_unit(text) - safe_unit(source_text)
    return 1 - (safe_unit(moved, shortest) * safe_unit(wanted, shortest)).sum(dim=-1)


def pair_probability(
    images: Tensor, positive: Tensor, negative: Tensor, scale: float, log: bool = False
) -> Tensor:
    """Return the probability of the first text of a pair: softmax of scale * cos over the two.

    The score of CLIP-LIT (arXiv 2303.17569) and CLIP-IQA (arXiv 2207.12396).

    Args:
        images: (N, D); embeddings need not be normalised.
        positive: (D,), or (K, D) for K pairs.
        negative: as `positive`.
        scale: factor of the cosines; `FrozenClip.logit_scale`, 100 for most models.
        log: return the logarithm, which stays exact where the probability is next to 0 or 1.

    Returns:
        (N,), or (N, K) for K pairs, in [0, 1].

    Raises:
        ValueError: `positive` and `negative` differ in shape.
    """
    if positive.shape != negative.shape:
        shapes = f"{tuple(positive.shape)} and {tuple(negative.shape)}"
        raise ValueError(f"positive and negative must have one shape; got {shapes}")
    # Sums of products, not a matrix product, which autocast would do in reduced precision.
    rows = images if positive.ndim == 1 else images[:, None]
    logits = scale * (cosine(rows, positive) - cosine(rows, negative))
    return F.logsigmoid(logits) if log else torch.sigmoid(logits)


def margin_ranking(ranks: Sequence[Tensor], margins: Sequence[float], ends: float | None = None) -> Tensor:
    """Return sum_i max(0, r_i - r_(i+1) + m_i), plus max(0, r_1 - r_R + m_e): CLIP-LIT's ranking.

    Args:
        ranks: R tensors of one shape, whose values should rise from the first to the last.
        margins: m_i, R - 1 numbers, the least rise from each to the next.
        ends: m_e, the least rise from the first to the last; None: no such term.

    Returns:
        A tensor of that shape, 0 where all values rise by enough.
    """
    steps = list(zip(ranks, ranks[1:], margins, strict=False))
    if ends is not None:
        steps.append((ranks[0], ranks[-1], ends))
    return torch.stack([(worse - better + margin).relu() for worse, better, margin in steps]).sum(dim=0)
