"""The contract of a backbone: two luma planes of any size in, fused luma of that size out."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from clipfuse.ops.checks import check_planes
from clipfuse.ops.padding import crop_to, pad_to_multiple
from clipfuse.types import FusionOutput


class FusionBackbone(nn.Module, ABC):
    """A network from two luma planes to one.

    Sides that `size_multiple` does not divide are padded by repetition and the fused image is cropped
    back; features keep the padded size. No layer may couple the samples of a batch.
    """

    size_multiple: ClassVar[int] = 1

    def forward(self, infrared: Tensor, visible: Tensor) -> FusionOutput:
        """Fuse a batch.

        Args:
            infrared: (N, 1, H, W) in [0, 1].
            visible: luma, (N, 1, H, W) in [0, 1].

        Raises:
            ValueError: wrong shape or type; names the tensor.
        """
        check_planes(infrared=infrared, visible=visible)
        multiple = self.size_multiple
        output: Any = self.fuse(pad_to_multiple(infrared, multiple), pad_to_multiple(visible, multiple))
        if not isinstance(output, FusionOutput) or not isinstance(output.fused, Tensor):
            return cast(FusionOutput, output)  # whoever called it names the network
        return replace(output, fused=crop_to(output.fused, (infrared.shape[-2], infrared.shape[-1])))

    @abstractmethod
    def fuse(self, infrared: Tensor, visible: Tensor) -> FusionOutput:
        """Fuse planes whose sides `size_multiple` divides."""
