"""LPIPS: how unlike two images look to a network that learnt to name what photographs show."""

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipfuse.ops.plain import plain_tensors
from clipfuse.ops.stored import read_weights
from clipfuse.ops.vgg import ALEXNET, PUBLISHED, FrozenFeatures, network_of

LAYERS = {"vgg16": ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"), "alexnet": tuple(ALEXNET)}
SMALLEST = 32
"""Least side in pixels: below, AlexNet's last layer has no place left."""
_HEADS = {"vgg16": "vgg.pth", "alexnet": "alex.pth"}
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of images in [-1, 1]
_LEAST = 1e-8


class Lpips:
    """The learned perceptual image patch similarity of Zhang et al. (CVPR 2018), version 0.1.

    sum_l mean_xy w_l . (u_l(a) - u_l(b))^2, u_l the features after five activations, each place a unit vector
    over channels, w_l weights that were fitted to what people see. The weights w_l are those in torchmetrics
    (BSD 2-Clause); its own class takes the features from a download alone, so the arithmetic is ours. The
    package `lpips` gives the same to 1e-4: as in torchmetrics, 1e-8 stands under the root of a length, where
    `lpips` adds 1e-10 to the length, whose gradient has no bound where features vanish.

    Args:
        weights: a file, or what `read_weights` has read of one, as in `FrozenFeatures`; None downloads.
        network: `vgg16` or `alexnet`; None: the one that the weights are of.

    Raises:
        ValueError: the weights cannot be had, or are of another network.
    """

    def __init__(
        self, weights: str | Path | Mapping[str, Any] | None = None, network: str | None = "vgg16"
    ) -> None:
        if network not in (None, *LAYERS):
            raise ValueError(f"LPIPS has the network {network!r}; expected {' or '.join(LAYERS)}")
        if isinstance(weights, str | Path):
            where, weights = weights, read_weights(Path(weights).expanduser(), network or "vgg16 or alexnet")
            found = network_of(weights)
            if found not in LAYERS or network not in (None, found):
                expected = network or " or ".join(LAYERS)
                raise ValueError(f"{where} does not hold the features of torchvision's {expected}")
            network = found
        self.network = network or "vgg16"
        self.features = FrozenFeatures(weights, self.network, None)
        self.heads = _heads(self.network)

    def __repr__(self) -> str:
        """Return the network, and whether its weights are those of the literature."""
        known = self.features.sha256 == PUBLISHED[self.network]
        return f"{self.network}, " + (
            "as published" if known else "with other weights than the published ones"
        )

    def units(self, images: Tensor) -> list[Tensor]:
        """Return the features of (N, 1 or 3, H, W) images in [0, 1], float32, each place of length 1."""
        shift, scale = (images.new_tensor(each).view(1, 3, 1, 1).float() for each in (_SHIFT, _SCALE))
        with torch.autocast(images.device.type, enabled=False):  # also where a network trains in bfloat16
            found = self.features((2 * images.float() - 1 - shift) / scale, LAYERS[self.network]).values()
            return [each / (each.square().sum(1, keepdim=True) + _LEAST).sqrt() for each in found]

    def between(self, first: list[Tensor], second: list[Tensor]) -> Tensor:
        """Return LPIPS, (N,) float32, of images whose `units` are given."""
        if self.heads[0].device != first[0].device:
            self.heads = [each.to(first[0].device) for each in self.heads]
        layers = [
            ((one - other).square() * head).sum(1).mean((1, 2))
            for one, other, head in zip(first, second, self.heads, strict=True)
        ]
        return torch.stack(layers).sum(0)

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Return LPIPS of each pair of images.

        Args:
            first: (N, 1 or 3, H, W) float in [0, 1], sides of 32 px or more; gray is repeated.
            second: the same.

        Returns:
            (N,) float32, 0 for equal images.
        """
        return self.between(self.units(first), self.units(second))

    def __deepcopy__(self, memo: Mapping[int, Any]) -> "Lpips":
        return self


@cache
def _heads(network: str) -> list[Tensor]:
    """Return the fitted weights of the five layers, (1, C, 1, 1)."""
    package = find_spec("torchmetrics")  # found, not imported: its import takes 2.5 s
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "functional/image/lpips_models" / _HEADS[network]
    with plain_tensors():
        state = read_weights(path, "LPIPS")
        return [state[f"lin{index}.model.1.weight"].float() for index in range(len(LAYERS[network]))]


def load_lpips(path: str) -> Lpips:
    """Return LPIPS by the network whose weights are in a file; the same object while the file is the same.

    Raises:
        ValueError: as `Lpips`.
    """
    file = Path(path).expanduser()
    stamp = (file.stat().st_mtime_ns, file.stat().st_size) if file.is_file() else None
    return _loaded(str(file), stamp)


@cache
def _loaded(path: str, stamp: object) -> Lpips:
    with plain_tensors():
        return Lpips(path, None)
