"""The classic fidelity loss: the brighter value and the stronger edge of the two sources."""

import torch
from kornia.metrics import ssim
from torch import Tensor

from clipfuse.losses.base import FusionLoss, require_terms
from clipfuse.ops.filters import sobel_magnitude
from clipfuse.ops.ranks import mean_over_ranks
from clipfuse.types import LossInputs, LossOutput

_LEVEL = 1 / 255  # a grey level: smaller differences come from rounding
_DECOMPOSED = ("base_infrared", "base_visible", "detail_infrared", "detail_visible")


class PixelLoss(FusionLoss):
    """Maximum-intensity L1 plus maximum-gradient L1, with optional structural and decomposition terms.

    total = w_i mean|F - max(I, V)| + w_g mean|G(F) - max(G(I), G(V))|
          + w_s (1 - (SSIM(F, I) + SSIM(F, V)) / 2) + w_d cc(D_I, D_V)^2 / (1.01 + cc(B_I, B_V))
          + w_c (1 - (cc(F - V, I) + cc(F - I, V)) / 2)

    G is |Sobel_x| + |Sobel_y| with zero border. Source: the fusion loss of SeAFusion (Tang et al.,
    Information Fusion 2022) as CDDFuse and PromptFusion release it, whose weights (1 and 10) are the
    defaults; SSIM after Wang et al., TIP 2004, Gaussian window 11, sigma 1.5. The decomposition term
    of CDDFuse (Zhao et al., CVPR 2023) makes the base features B of the sources alike and their detail
    features D unlike; cc is the correlation over pixels, averaged over samples and channels. The difference
    term is own design: the metric SCD (Aslantas and Bendes, AEU 2015) as a loss. The fused image minus one
    source should correlate with the other source, which the brighter value alone does not ensure. Its
    correlations add a grey level to each standard deviation: without it their slope is unbounded where the
    fused image equals a source.

    A term of weight 0 is left out of computation and log.

    Args:
        intensity_weight: w_i, 0 or more.
        gradient_weight: w_g, 0 or more.
        ssim_weight: w_s, 0 or more. The published SSIM losses of this family are (1 - SSIM) / 2, half of
            ours.
        decomposition_weight: w_d, 0 or more, 2 in the releases; needs a backbone with the features
            base_infrared, base_visible, detail_infrared and detail_visible.
        difference_weight: w_c, 0 or more.

    Raises:
        ValueError: a weight is negative or infinite, or all are 0.
    """

    def __init__(
        self,
        intensity_weight: float = 1.0,
        gradient_weight: float = 10.0,
        ssim_weight: float = 0.0,
        decomposition_weight: float = 0.0,
        difference_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.weights = {
            "intensity": intensity_weight,
            "gradient": gradient_weight,
            "ssim": ssim_weight,
            "decomposition": decomposition_weight,
            "difference": difference_weight,
        }
        require_terms("pixel", self.weights)

    def setup(self, sample: LossInputs) -> None:
        """Refuse crops smaller than the SSIM window, and a backbone without the features of the bands."""
        height, width = sample.fused.shape[-2:]
        if self.weights["ssim"] and min(height, width) < 11:
            raise ValueError(
                f"pixel loss: SSIM needs crops of 11 px or more, got {height}x{width}; raise loader.crop_size"
            )
        missing = [name for name in _DECOMPOSED if name not in sample.features]
        if self.weights["decomposition"] and missing:
            raise ValueError(
                f"pixel loss: the backbone gives no feature {', '.join(missing)}; take a contourlet "
                f"backbone, or set {self.place}.decomposition_weight=0"
            )

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Return the weighted sum; `terms` has the terms whose weight is not 0."""
        fused, infrared, visible = inputs.fused, inputs.infrared, inputs.visible
        terms: dict[str, Tensor] = {}
        if self.weights["intensity"]:
            terms["intensity"] = (fused - infrared.maximum(visible)).abs().mean()
        if self.weights["gradient"]:
            stronger = sobel_magnitude(infrared).maximum(sobel_magnitude(visible))
            terms["gradient"] = (sobel_magnitude(fused) - stronger).abs().mean()
        if self.weights["ssim"]:
            terms["ssim"] = 1 - (ssim(fused, infrared, 11).mean() + ssim(fused, visible, 11).mean()) / 2
        if self.weights["decomposition"]:
            base_infrared, base_visible, detail_infrared, detail_visible = (
                inputs.features[name].to(fused.dtype) for name in _DECOMPOSED
            )
            # Means over the batch of all ranks: a ratio of means is no mean of ratios.
            base, detail = (
                mean_over_ranks(shares.flatten(), shares.new_tensor(shares.numel()), together=self.training)
                for shares in (
                    correlations(base_infrared, base_visible),
                    correlations(detail_infrared, detail_visible),
                )
            )
            terms["decomposition"] = detail**2 / (1.01 + base)
        if self.weights["difference"]:
            left = correlations(fused - visible, infrared, _LEVEL) + correlations(
                fused - infrared, visible, _LEVEL
            )
            terms["difference"] = 1 - left.mean() / 2
        total = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        return LossOutput(total, {name: term.detach() for name, term in terms.items()})


def correlations(first: Tensor, second: Tensor, floor: float = 0.0) -> Tensor:
    """Return Pearson's correlation over pixels, clamped to [-1, 1], of each sample and channel.

    Args:
        first: (N, C, H, W).
        second: the same shape.
        floor: its square is added to both variances, so that the slope stays bounded where nothing varies.

    Returns:
        (N, C). As released, float32's epsilon is added to the denominator whatever the type.
    """
    least = first[0, 0].numel() * floor**2
    first, second = (maps.flatten(2) - maps.flatten(2).mean(2, keepdim=True) for maps in (first, second))
    # The root of the product, clamped: the root of 0 would give NaN gradients where features are constant.
    product = (first.square().sum(2) + least) * (second.square().sum(2) + least)
    spread = product.clamp(min=torch.finfo(product.dtype).tiny).sqrt()
    share = (first * second).sum(2) / (spread + torch.finfo(torch.float32).eps)
    return share.clamp(-1, 1)
