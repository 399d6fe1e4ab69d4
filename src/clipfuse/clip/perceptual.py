"""A perceptual loss whose target is the larger feature of both sources, in a frozen CLIP or VGG."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clipfuse.clip.encoder import FrozenClip
from clipfuse.ops.vgg import FrozenFeatures, layers_of


class MaximumFeatures:
    """sum_l v_l MSE(f_l(fused), max(f_l(visible), f_l(infrared))) over layers of a frozen network.

    The rule of the releases of LDFusion (arXiv 2402.16267), over three layers of a VGG, and of AutoFuse, over
    two. Features of CLIP, for which there is no release, are divided by the root mean square of the target,
    so that one weight suits any CLIP.

    Args:
        clip: the frozen CLIP; its image tower is used if `network` is `clip`.
        network: `vgg19`, `vgg16` (features after the activation) or `clip`.
        layers: `count` names; None: the last of conv2_1, conv3_1, conv4_2 of a VGG, of layer1 to layer3 of a
            ResNet, or of those at a quarter, a half and three quarters of a ViT.
        weights: v_l, one per layer, 0 or more.
        vgg_weights: a file of the VGG's weights, as in `FrozenFeatures`; None downloads.
        count: number of layers, two or three.

    Raises:
        ValueError: wrong weights or layers, a CLIP without features, no weights of the VGG.
    """

    def __init__(
        self,
        clip: FrozenClip,
        network: Literal["clip", "vgg16", "vgg19"],
        layers: Sequence[str] | None,
        weights: Sequence[float],
        vgg_weights: str | None = None,
        count: int = 3,
    ) -> None:
        known = clip.feature_layers if network == "clip" else tuple(layers_of(network))
        if not known:
            raise ValueError(
                f"{clip} gives no features of its image tower; set perceptual=vgg19 or perceptual_weight=0"
            )
        self.layers = tuple(layers) if layers is not None else usual_layers(known, network)[-count:]
        number = {2: "two", 3: "three"}[count]
        if len(self.layers) != count or not set(self.layers) <= set(known):
            raise ValueError(
                f"perceptual_layers are {', '.join(self.layers)}; expected {number} of {', '.join(known)}"
            )
        if len(weights) != count or not min(weights) >= 0:
            raise ValueError(f"layer_weights are {list(weights)}; expected {number}, 0 or more")
        self.weights = tuple(weights)
        self.vgg: FrozenFeatures | None = None
        if network != "clip":
            self.vgg = FrozenFeatures(vgg_weights, network, max(self.layers, key=known.index))

    @property
    def of_clip(self) -> tuple[str, ...]:
        """The layers of CLIP whose features are needed; none with a VGG."""
        return self.layers if self.vgg is None else ()

    def __call__(self, fused: dict[str, Tensor], sources: dict[str, Tensor], *images: Tensor) -> Tensor:
        """Return the loss.

        Args:
            fused: the features `of_clip` of N fused images.
            sources: those of the 2N source images, first all of one band; without graph.
            *images: the images themselves, (N, 1, H, W) and (2N, 1, H, W), for a VGG.
        """
        if self.vgg is not None:
            with torch.no_grad():  # before the fused images have a graph, and one band after the other
                bands = [self.vgg(band, self.layers) for band in images[1].chunk(2)]
            sources = {name: torch.cat([band[name] for band in bands]) for name in self.layers}
            fused = self.vgg(images[0], self.layers)
        pairs = [(fused[name], sources[name]) for name in self.layers]
        return maximum_feature_loss(pairs, self.weights, relative=self.vgg is None)


def maximum_feature_loss(
    pairs: Sequence[tuple[Tensor, Tensor]], weights: Sequence[float], relative: bool = False
) -> Tensor:
    """Return the weighted sum over layers of MSE(fused, the larger feature of the two sources).

    Args:
        pairs: per layer the fused images' features (N, C, h, w) and the sources' (2N, C, h, w).
        weights: per layer.
        relative: divide each image's error by the mean square of the larger features.
    """
    terms = []
    for (feature, both), weight in zip(pairs, weights, strict=True):
        first, second = both.chunk(2)
        larger = first.maximum(second)
        if relative:
            error = (feature - larger).square().flatten(1).mean(dim=1)
            scale = larger.square().flatten(1).mean(dim=1).clamp(min=1e-12)
            terms.append(weight * (error / scale).mean())
        else:
            terms.append(weight * F.mse_loss(feature, larger))
    return torch.stack(terms).sum()


def usual_layers(known: tuple[str, ...], network: str) -> tuple[str, ...]:
    """Return three of a network's layers: those of LDFusion, or at a quarter, a half and three quarters."""
    if network != "clip":
        return ("conv2_1", "conv3_1", "conv4_2")
    if known[0] == "stem":
        return known[1:4]
    return tuple(known[max(0, len(known) * part // 4 - 1)] for part in (1, 2, 3))
