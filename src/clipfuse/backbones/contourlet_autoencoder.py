"""The shared fusion network: PromptFusion's contourlet autoencoder, repaired."""

from collections.abc import Sequence
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clipfuse.backbones.base import FusionBackbone
from clipfuse.backbones.blocks import InvertibleNode, RestormerBlock
from clipfuse.contourlet import ContourletTransform
from clipfuse.ops.black import keep_black
from clipfuse.ops.pyramid import energy_fusion, pyramid_fusion
from clipfuse.ops.strips import may_split
from clipfuse.types import FusionOutput

LEVELS = (0, 3, 3, 3)
RESIDUALS = ("average", "visible", "maximum", "pyramid", "energy")
PUBLISHED_SIZE = (224, 224)


class ContourletAutoencoder(FusionBackbone):
    """Fuse deep features of two bands: base by channel attention, detail by contourlet and U-Net.

    One encoder for both bands: overlapping 3x3 patch embedding, Restormer blocks, then a base branch
    (one more block) and a detail branch (`ContourletUNet`). The sums over the bands go through a block
    (base) and an invertible node (detail); both are concatenated, reduced and decoded by Restormer
    blocks and two convolutions: fused = sigmoid(logit(residual) + decoded), the residual clamped to
    [0.01, 0.99]. The last layer starts at zero: the untrained network returns its residual image. In eval
    mode black, which that clamp and the sigmoid miss by 3 levels of 255, is kept (`keep_black`).

    Source: PromptFusion (Liu et al., IEEE/CAA JAS 12(3), 2025) as its released code defines the network,
    which is CDDFuse (Zhao et al., CVPR 2023) with a contourlet in the detail branch. Repaired:

    - The released code adds the visible image and then applies the sigmoid: a correction of 0 gives an
      image in [0.5, 0.73]. Here the sigmoid inverts a logit, and the base image is by default the average of
      the sources. If it is a source or their maximum, each pixel starts at a kink of the L1 fusion losses,
      and stays there for long: pixel loss on held-out RoadScene pairs after 400 updates of `contourlet_tiny`
      1.10 from the average, 1.32 with the published output, 1.29 from the maximum and 1.75 from the visible
      image.
    - The sums of features of one shared encoder stay the same if the sources are exchanged, so that the
      decoder cannot distinguish them. Here each channel of the sums has a weight per source that starts
      at 1.
    - Its contourlet is detached from the graph and its "directional" filters are low-pass (a slip in
      the modulation). Here the gradient passes through exact filters.
    - It resizes features of any size to 224x224 for the contourlet and back. Here they are transformed
      at their own size.
    - It stretches the wide and tall subbands to squares bilinearly. Critically sampled subbands are not
      smooth (bilinear halves an alternating one), so here each coefficient is repeated.
    - Its U-Net's descending convolutions follow each other without a non-linearity. Here ReLU.
    - Batch norm couples samples and ranks. Here group norm.
    - The exponent of the invertible node is unbounded. Here within [-1, 1].
    - Layers that are built and never used (a second detail branch, a fourth ascending stage, statistics
      of the subbands): 55,763 parameters without gradient. Left out, also from the faithful network.

    Args:
        dim: channels of all features, even.
        heads: of each channel attention; divides dim.
        encoder_blocks: Restormer blocks of the encoder, 0 or more.
        decoder_blocks: Restormer blocks of the decoder, 0 or more.
        unet_width: channels of the U-Net at its finest scale; they double per scale. Published: dim.
        stride: of the patch embedding: 1, or 2 for features at half resolution, a quarter of the work,
            and an output of four sub-pixels per feature.
        dense: full 3x3 convolutions in the attention of the base branch and the base fusion, as
            published; 0.33 M of the published encoder's weights at dim 64. False: depthwise.
        residual: base image, to which the correction is added: `average` or `maximum` of both sources,
            `visible`, or the average with details of both sources, which a network with `smooth` cannot add:
            `pyramid` takes the larger detail at each place (`pyramid_fusion`), `energy` mixes them
            (`energy_fusion`).
        detail_gain: gain of the details that `energy` mixes, above 0.
        base_gain: gain of the low-pass part of `energy`, the average of both sources, about its mean; above
            0. With 2 it is the sum of both sources' deviations.
        smooth: low-pass the correction by [1 2 1] / 4 along rows and columns. The sub-pixels of stride 2 can
            otherwise draw a checkerboard, which a CLIP with smaller input does not see and one with larger
            input may reward. Own design.
        checkpointing: recompute the blocks and the U-Net in backward: less memory, more time.
        faithful: the published network (of the repairs above only the last); `residual` has no effect. Its
            batch norm couples samples, so that ranks differ. Sides are still padded to multiples of 32.
        chroma: also learn the chroma of the fused image (`ChromaHead`); not with `faithful`.

    Raises:
        ValueError: an argument is out of its range, or faithful is combined with what was not published.
    """

    # Four dyadic scales of features, whose sides may be half of the image's.
    size_multiple = 32
    chroma_features = ("base_fused", "detail_fused")

    def __init__(
        self,
        dim: int = 64,
        heads: int = 8,
        encoder_blocks: int = 4,
        decoder_blocks: int = 4,
        unet_width: int = 64,
        stride: int = 1,
        dense: bool = True,
        residual: str = "average",
        checkpointing: bool = False,
        faithful: bool = False,
        smooth: bool = False,
        detail_gain: float = 1.0,
        base_gain: float = 1.0,
        chroma: bool = False,
    ) -> None:
        super().__init__()
        if dim < 2 or dim % 2 or heads < 1 or dim % heads:
            raise ValueError(
                f"contourlet: dim {dim} and heads {heads}; expected an even dim that heads divides"
            )
        if min(encoder_blocks, decoder_blocks) < 0 or unet_width < 1:
            raise ValueError(
                f"contourlet: {encoder_blocks} encoder_blocks, {decoder_blocks} decoder_blocks, unet_width "
                f"{unet_width}; expected 0 or more blocks and a width of 1 or more"
            )
        if stride not in (1, 2) or residual not in RESIDUALS:
            raise ValueError(
                f"contourlet: stride {stride} and residual '{residual}'; "
                f"expected 1 or 2, and one of {', '.join(RESIDUALS)}"
            )
        gains = detail_gain, base_gain
        if min(gains) <= 0 or (gains != (1, 1) and residual != "energy"):
            raise ValueError(
                f"contourlet: detail_gain {detail_gain} and base_gain {base_gain} with residual '{residual}';"
                " expected above 0, and other than 1 only with residual=energy"
            )
        if faithful and (stride != 1 or checkpointing or smooth or chroma):
            raise ValueError(
                "contourlet: faithful needs stride 1 and no smooth or chroma, as published, and no "
                "checkpointing, which would update batch norm's statistics twice"
            )
        self.stride, self.residual, self.gains = stride, residual, gains
        self.checkpointing, self.faithful, self.smooth = checkpointing, faithful, smooth
        self.embed = nn.Conv2d(1, dim, 3, stride=stride, padding=1, bias=False)
        self.encoder = nn.ModuleList(RestormerBlock(dim, heads) for _ in range(encoder_blocks))
        self.base = RestormerBlock(dim, heads, expansion=1, dense=dense)
        self.detail = ContourletUNet(dim, unet_width, faithful)
        self.base_sum, self.detail_sum = _BandSum(dim, faithful), _BandSum(dim, faithful)
        self.base_fusion = RestormerBlock(dim, heads, expansion=1, dense=dense)
        self.detail_fusion = InvertibleNode(dim, published=faithful)
        self.reduce = nn.Conv2d(2 * dim, dim, 1, bias=False)
        self.decoder = nn.ModuleList(RestormerBlock(dim, heads) for _ in range(decoder_blocks))
        self.refine = nn.Sequential(nn.Conv2d(dim, dim // 2, 3, padding=1, bias=False), nn.LeakyReLU())
        self.render = nn.Conv2d(dim // 2, stride**2, 3, padding=1, bias=False)
        if not faithful:
            nn.init.zeros_(self.render.weight)
        if chroma:
            self.learn_chroma(2 * dim, scale=stride)

    def fuse(self, infrared: Tensor, visible: Tensor) -> FusionOutput:
        """Fuse planes whose sides `size_multiple` divides.

        The features `base_infrared`, `base_visible`, `detail_infrared`, `detail_visible`, `base_fused`
        and `detail_fused` are (N, dim, H / stride, W / stride).
        """
        if self.faithful or may_split(infrared):
            # One source at a time: the published batch norm was trained so, and it takes less memory.
            (base_i, detail_i), (base_v, detail_v) = self.encode(infrared), self.encode(visible)
        else:
            base, detail = self.encode(torch.cat([infrared, visible]))
            bands = 2, infrared.shape[0]
            (base_i, base_v), (detail_i, detail_v) = base.unflatten(0, bands), detail.unflatten(0, bands)
        base_fused = self._run(self.base_fusion, self.base_sum(base_i, base_v))
        detail_fused = self._run(self.detail_fusion, self.detail_sum(detail_i, detail_v))
        features = self.reduce(torch.cat([base_fused, detail_fused], dim=1))
        for block in self.decoder:
            features = self._run(block, features)
        change = F.pixel_shuffle(self.render(self.refine(features)), self.stride)
        if self.smooth:
            for dim, border in ((3, (1, 1, 0, 0)), (2, (0, 0, 1, 1))):
                padded, side = F.pad(change, border, mode="replicate"), change.shape[dim]
                before, middle, after = (padded.narrow(dim, shift, side) for shift in range(3))
                change = (before + after) / 4 + middle / 2
        return FusionOutput(
            self._add_residual(change, infrared, visible),
            {
                "base_infrared": base_i,
                "base_visible": base_v,
                "detail_infrared": detail_i,
                "detail_visible": detail_v,
                "base_fused": base_fused,
                "detail_fused": detail_fused,
            },
        )

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return base and detail features, (N, dim, H / stride, W / stride), of one band, (N, 1, H, W)."""
        features = self.embed(image).contiguous(memory_format=torch.channels_last)
        for block in self.encoder:
            features = self._run(block, features)
        return self._run(self.base, features), self._run(self.detail, features)

    def _run(self, module: nn.Module, features: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            result: Tensor = checkpoint(module, features, use_reentrant=False)
            return result
        return module(features)

    def _add_residual(self, change: Tensor, infrared: Tensor, visible: Tensor) -> Tensor:
        if self.faithful:
            return torch.sigmoid(visible + change)
        with torch.autocast(infrared.device.type, enabled=False):  # a pyramid convolves
            image = self._residual_image(infrared, visible)
        fused = torch.sigmoid(torch.logit(image.clamp(0.01, 0.99)) + change)
        return fused if self.training else keep_black(fused, infrared, visible)

    def _residual_image(self, infrared: Tensor, visible: Tensor) -> Tensor:
        return {
            "average": lambda: (infrared + visible) / 2,
            "visible": lambda: visible,
            "maximum": lambda: infrared.maximum(visible),
            "pyramid": lambda: pyramid_fusion(infrared, visible),
            "energy": lambda: energy_fusion(infrared, visible, *self.gains),
        }[self.residual]()


class _BandSum(nn.Module):
    """Sum of the sources' features, each channel with a weight per source that starts at 1."""

    def __init__(self, dim: int, published: bool) -> None:
        super().__init__()
        self.weight = None if published else nn.Parameter(torch.ones(2, dim, 1, 1))

    def forward(self, infrared: Tensor, visible: Tensor) -> Tensor:
        """Return (N, dim, H, W)."""
        if self.weight is None:
            return infrared + visible
        return infrared * self.weight[0] + visible * self.weight[1]


class ContourletUNet(nn.Module):
    """Detail branch: features reduced to one plane, its contourlet, and a U-Net that joins the subbands.

    Strided convolutions halve the plane four times; at each scale the contourlet's subbands of that
    size are concatenated: 8 wedges at 1/2, 1/4, 1/8, and the lowpass and three wavelet bands at 1/16 of
    the sides. Three ascending stages with skips lead back to 1/2, and a bilinear resize to the sides.
    Wide and tall wedges come at half the rows or columns of their scale; each coefficient is repeated.

    Source: Contourlet CNN (Liu et al., TNNLS 2021) as PromptFusion uses it.

    Args:
        dim: channels of the features in and out.
        width: channels at 1/2 of the sides; 2, 4 and 8 times as many at 1/4, 1/8 and 1/16.
        published: the published network, as with `faithful` of `ContourletAutoencoder`.
    """

    def __init__(self, dim: int, width: int, published: bool = False) -> None:
        super().__init__()
        self.published = published
        self.reduce = nn.Conv2d(dim, 1, 1)
        self.transform = ContourletTransform(LEVELS, compat="published" if published else None)
        activation = nn.Identity() if published else nn.ReLU()
        self.halve = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), activation)
            for before, after in (
                (1, width),
                (width + 8, width),
                (2 * width, 2 * width),
                (4 * width, 4 * width),
            )
        )
        self.merge = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, padding=1), activation)
            for before, after in (
                (width + 8, 2 * width),
                (2 * width + 8, 4 * width),
                (4 * width + 4, 8 * width),
            )
        )
        self.ascend = nn.ModuleList(
            _Ascent(2 * skip, skip, after, published)
            for skip, after in ((4 * width, 4 * width), (2 * width, 2 * width), (width, dim))
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, dim, H, W), from (N, dim, H, W) of sides divisible by 16."""
        size = (features.shape[-2], features.shape[-1])
        plane = self.reduce(features)
        if self.published:
            plane = F.interpolate(plane, PUBLISHED_SIZE, mode="bilinear")
        finest, *coarser = self.subbands(plane)
        descending = self.halve[0](plane)
        skips = [descending]
        # The finest wedges join after the first skip is taken, as published.
        descending = torch.cat([descending, finest], dim=1)
        for halve, merge, subbands in zip(self.halve[1:], self.merge, coarser, strict=True):
            descending = merge(torch.cat([halve(descending), subbands], dim=1))
            skips.append(descending)
        ascending = skips.pop()
        for ascend in self.ascend:
            ascending = ascend(ascending, skips.pop())
        return F.interpolate(ascending, size, mode="bilinear")

    def subbands(self, plane: Tensor) -> list[Tensor]:
        """Return the subbands of (N, 1, H, W) by scale, fine to coarse, each as one (N, 8 or 4, h, w)."""
        coefficients = self.transform(plane.detach() if self.published else plane)
        coarsest, *details = coefficients.details
        mode = "bilinear" if self.published else "nearest"
        squares = [torch.cat([coefficients.lowpass, *coarsest], dim=1)]
        for wedges in details:
            wide, tall = torch.cat(wedges[:4], dim=1), torch.cat(wedges[4:], dim=1)
            size = (tall.shape[-2], wide.shape[-1])
            squares.append(torch.cat([F.interpolate(half, size, mode=mode) for half in (wide, tall)], dim=1))
        return squares[::-1]


class _Ascent(nn.Module):
    """Double the sides, concatenate the skip, and convolve twice."""

    def __init__(self, before: int, skip: int, after: int, published: bool) -> None:
        super().__init__()
        self.enlarge = nn.Sequential(nn.Upsample(scale_factor=2), *_convolution(before, skip, published))
        self.convolve = nn.Sequential(
            *_convolution(2 * skip, after, published), *_convolution(after, after, published)
        )

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Return (N, after, H, W) from (N, before, H / 2, W / 2) and (N, skip, H, W)."""
        result: Tensor = self.convolve(torch.cat([self.enlarge(coarse), skip], dim=1))
        return result


def _convolution(before: int, after: int, published: bool) -> Sequence[nn.Module]:
    # A group of one channel would lose the channel's mean; with four groups or fewer each has several.
    norm = nn.BatchNorm2d(after) if published else nn.GroupNorm(gcd(after, 4), after)
    return nn.Conv2d(before, after, 3, padding=1, bias=False), norm, nn.ReLU(inplace=True)
