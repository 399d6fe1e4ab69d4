"""From images in [0, 1] to the input of an image tower: differentiable, on any device."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from clipfuse.ops.plain import plain_tensors

RESIZES = ("shortest", "squash")


@dataclass(frozen=True)
class Preprocess:
    """Gray to RGB, antialiased resize, center crop, normalisation: the model's own PIL steps, for tensors.

    The resize is two products with matrices that hold Pillow's weights, clamped to [0, 1] after each as
    Pillow does. Cropping is then a choice of rows, and the backward is deterministic on CUDA, where that of
    `interpolate` is not. What remains of the difference is Pillow's rounding to 8 bits.

    Attributes:
        size: (height, width) the tower takes.
        mean: means of red, green and blue.
        std: standard deviations of red, green and blue.
        interpolation: `bicubic` or `bilinear`.
        resize: `shortest` scales the shorter side and cuts the center; `squash` scales both sides.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    resize: str = "shortest"

    def __post_init__(self) -> None:
        if self.interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"interpolation is {self.interpolation!r}; expected 'bicubic' or 'bilinear'")
        _check_resize(self.resize)
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} must be three numbers each, std above 0")

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Preprocess":
        """Read open_clip's `preprocess_cfg`."""
        size = config["size"]
        height, width = (size, size) if isinstance(size, int) else size
        return cls(
            (int(height), int(width)),
            tuple(map(float, config["mean"])),
            tuple(map(float, config["std"])),
            config.get("interpolation", "bicubic"),
            config.get("resize_mode", "shortest"),
        )

    def __call__(self, images: Tensor, dtype: torch.dtype, resize: str | None = None) -> Tensor:
        """Return (N, 3, *size) in `dtype`, on the device of `images`; never in reduced precision.

        Args:
            images: (N, 1 or 3, H, W) in [0, 1], any H and W from 1 on. Values are not checked, since that
                would make a GPU wait; values outside are clamped where the image is resized.
            dtype: of the result; the steps are computed in this type, or in float32 if it has fewer bits.
            resize: `shortest` or `squash`; None takes that of the model.

        Raises:
            ValueError: wrong shape or type; names it.
        """
        _check_images(images)
        resize = _check_resize(resize or self.resize)
        with torch.autocast(images.device.type, enabled=False):
            exact = torch.promote_types(dtype, torch.float32)
            images = images.to(exact)
            shape = tuple(images.shape[-2:])
            if shape != self.size:
                scaled = self.size if resize == "squash" else _shortest(shape, self.size)
                rows, columns = (
                    _weights(old, new, cut, self.interpolation, exact, images.device)
                    for old, new, cut in zip(shape, scaled, self.size, strict=True)
                )
                # The side that shrinks more comes first, which is cheaper; Pillow 13 does the same.
                if scaled[0] * shape[1] < scaled[1] * shape[0]:
                    images = ((rows @ images).clamp(0, 1) @ columns.T).clamp(0, 1)
                else:
                    images = (rows @ (images @ columns.T).clamp(0, 1)).clamp(0, 1)
            mean, std = (_constant(values, exact, images.device) for values in (self.mean, self.std))
            return ((images - mean) / std).to(dtype)


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            f"images have shape {tuple(images.shape)}; expected (N, 1 or 3, H, W), none of them 0"
        )
    if not images.is_floating_point():
        raise ValueError(f"images have type {images.dtype}; expected floating point in [0, 1]")


def _check_resize(resize: str) -> str:
    if resize not in RESIZES:
        raise ValueError(f"resize is {resize!r}; expected one of {', '.join(RESIZES)}")
    return resize


def _shortest(shape: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    """The size of the whole scaled image, as torchvision's and open_clip's transforms round it."""
    height, width = shape
    if size[0] == size[1]:
        side = size[0]
        return (side, side * width // height) if height <= width else (side * height // width, side)
    ratio = min(height / size[0], width / size[1])
    return round(height / ratio), round(width / ratio)


@lru_cache(maxsize=64)
def _weights(
    old: int, new: int, cut: int, interpolation: str, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Pillow's antialiased resampling from `old` to `new` samples, the middle `cut` of them: (cut, old)."""
    with plain_tensors():
        first = round((new - cut) / 2.0)
        scale = old / new
        stretch = max(scale, 1.0)
        reach = (2.0 if interpolation == "bicubic" else 1.0) * stretch
        centers = (torch.arange(first, first + cut, dtype=torch.float64) + 0.5) * scale
        samples = torch.arange(old, dtype=torch.float64)
        low = (centers - reach + 0.5).floor().clamp(min=0)[:, None]
        high = (centers + reach + 0.5).floor().clamp(max=old)[:, None]
        distance = ((samples + 0.5 - centers[:, None]) / stretch).abs()
        kernel = _bicubic(distance) if interpolation == "bicubic" else (1 - distance).clamp(min=0)
        kernel = torch.where((samples >= low) & (samples < high), kernel, 0.0)
        return (kernel / kernel.sum(dim=1, keepdim=True)).to(device, dtype)


def _bicubic(distance: Tensor) -> Tensor:
    """Keys' kernel with a = -0.5 (IEEE Trans. ASSP 29(6), 1981), as Pillow has it."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


@lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with plain_tensors():
        return torch.tensor(values, dtype=dtype, device=device).reshape(1, 3, 1, 1)
