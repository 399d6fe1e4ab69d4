"""Between stored depths and [0, 1]: the one rounding that image files and metrics share."""

import torch
from torch import Tensor


def to_unit(image: Tensor) -> Tensor:
    """Return a stored image as float32 in [0, 1]: uint8 / 255, uint16 / 65535, float unchanged."""
    return image.float() / _full_scale(image.dtype)


def from_unit(image: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an image in [0, 1] in the number type `dtype`: the inverse of `to_unit`.

    Integers are floor(scale * x + 0.5), halves up, in float64; values outside [0, 1] are clamped.
    """
    if dtype.is_floating_point:
        return image.to(dtype)
    return _rounded(image, _full_scale(dtype)).to(dtype)


def to_bytes(image: Tensor) -> Tensor:
    """Return an image in [0, 1] as uint8: the rounding of image files and of metrics."""
    return from_unit(image, torch.uint8)


def to_levels(image: Tensor, data_range: float = 1.0) -> Tensor:
    """Return an image in [0, data_range] as the whole numbers 0..255 of `to_bytes`, in float64."""
    return _rounded(image, 255.0, data_range)


def _rounded(image: Tensor, scale: float, data_range: float = 1.0) -> Tensor:
    return image.double().mul(scale / data_range).add_(0.5).floor_().clamp_(0, scale)


def _full_scale(dtype: torch.dtype) -> float:
    return 1.0 if dtype.is_floating_point else float(torch.iinfo(dtype).max)
