"""The contract of a backbone: two luma planes of any size in, fused luma of that size out."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from clipfuse.backbones.chroma import ChromaHead
from clipfuse.ops.checks import check_planes
from clipfuse.ops.padding import crop_to, pad_to_multiple
from clipfuse.types import FusionOutput


class FusionBackbone(nn.Module, ABC):
    """A network from two luma planes to one, which may learn the chroma of the fused image as well.

    Sides that `size_multiple` does not divide are padded by repetition and the fused image is cropped
    back; features keep the padded size. No layer may couple the samples of a batch.

    Attributes:
        chroma_features: names of the features from which the chroma is learned, all of one size.
    """

    size_multiple: int = 1
    chroma_features: ClassVar[tuple[str, ...]] = ("fused",)

    def learn_chroma(self, dim: int, scale: int) -> None:
        """Add the layers that learn the chroma; call it last, so that all others start as without them.

        Args:
            dim: channels of all `chroma_features` together.
            scale: by which factor the sides of the image are those of these features.
        """
        self.chroma_head = ChromaHead(dim, scale)

    @property
    def learns_chroma(self) -> bool:
        """Whether the network takes the chroma of the visible image and returns that of the fused one."""
        return "chroma_head" in self._modules

    def forward(self, infrared: Tensor, visible: Tensor, chroma: Tensor | None = None) -> FusionOutput:
        """Fuse a batch.

        Args:
            infrared: (N, 1, H, W) in [0, 1].
            visible: luma, (N, 1, H, W) in [0, 1].
            chroma: Cb and Cr of the visible image, (N, 2, H, W) in [0, 1], for a network that
                `learns_chroma`; the fused luma does not depend on it. Without it the output has no chroma.

        Raises:
            ValueError: wrong shape or type; names the tensor.
        """
        check_planes(infrared=infrared, visible=visible)
        size, multiple = (infrared.shape[-2], infrared.shape[-1]), self.size_multiple
        planes = pad_to_multiple(infrared, multiple), pad_to_multiple(visible, multiple)
        output: Any = self.fuse(*planes)
        if not isinstance(output, FusionOutput) or not isinstance(output.fused, Tensor):
            return cast(FusionOutput, output)  # whoever called it names the network
        learned = None
        if chroma is not None and self.learns_chroma:
            shape = (infrared.shape[0], 2, *size)
            if chroma.shape != shape or not chroma.is_floating_point():
                raise ValueError(
                    f"chroma has type {chroma.dtype} and shape {tuple(chroma.shape)}; expected Cb and Cr of "
                    f"the visible image, floating point {shape}"
                )
            features = torch.cat([output.features[name] for name in self.chroma_features], dim=1)
            padded = pad_to_multiple(chroma, multiple)
            learned = crop_to(self.chroma_head(padded, *planes, output.fused, features), size)
        return replace(output, fused=crop_to(output.fused, size), chroma=learned)

    @abstractmethod
    def fuse(self, infrared: Tensor, visible: Tensor) -> FusionOutput:
        """Fuse planes whose sides `size_multiple` divides."""
