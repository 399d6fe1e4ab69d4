"""Metrics of linear correlation between the fused image and its sources."""

from typing import NamedTuple

import torch
from torch import Tensor

from clipfuse.metrics.definition import metric
from clipfuse.metrics.sharing import shared


@metric("CC", higher_is_better=True, bounds=(-1, 1))
def correlation_coefficient(fused: Tensor, infrared: Tensor, visible: Tensor) -> Tensor:
    """CC: mean of the two Pearson correlations of the fused image with its sources.

    Returns:
        (N,) in [-1, 1]; higher is better. A correlation with a constant image, 0/0, counts as 0: a
        constant explains nothing.
    """
    f, i, v = _centred(fused), _centred(infrared), _centred(visible)
    return (_pearson(i, f) + _pearson(v, f)) / 2


@metric("SCD", higher_is_better=True, bounds=(-2, 2))
def scd(fused: Tensor, infrared: Tensor, visible: Tensor) -> Tensor:
    """SCD: r(F - V, I) + r(F - I, V) (Aslantas and Bendes, AEU 2015).

    The fused image less one source should resemble the other one.

    Returns:
        (N,) in [-2, 2]; higher is better. A correlation with a constant, as where the fused image
        equals a source, counts as 0.
    """
    f, i, v = _centred(fused), _centred(infrared), _centred(visible)
    return _pearson(i, _difference(f, v)) + _pearson(v, _difference(f, i))


class _Centred(NamedTuple):
    """Deviations from the mean, (N, H W), and the sum of their squares, (N,)."""

    values: Tensor
    energy: Tensor


# Deviations of a constant image are rounding errors: at most this share of the sum of its squares.
_ROUNDING = 1e-20


@shared
def _centred(plane: Tensor) -> _Centred:
    flat = plane.flatten(1)
    mean = flat.mean(1, keepdim=True)
    values = flat - mean
    return _Centred(values, _energy(values, mean[:, 0].square() * flat.shape[1]))


def _difference(one: _Centred, other: _Centred) -> _Centred:
    values = one.values - other.values
    return _Centred(values, _energy(values, one.energy + other.energy))


def _energy(values: Tensor, scale: Tensor) -> Tensor:
    """Return the sums of squares, with 0 where they are rounding errors beside `scale`."""
    energy = _dot(values, values)
    return torch.where(energy > _ROUNDING * scale, energy, 0)


def _pearson(x: _Centred, y: _Centred) -> Tensor:
    """Return the correlation of each pair of planes, (N,); 0 where one of them is constant."""
    norm = x.energy * y.energy
    positive = norm > 0
    # The inner `where` keeps the infinite slope of the root at 0 out of the gradient.
    return torch.where(positive, _dot(x.values, y.values) / torch.where(positive, norm, 1).sqrt(), 0)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return torch.bmm(x[:, None], y[:, :, None])[:, 0, 0]
