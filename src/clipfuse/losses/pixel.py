"""The classic fidelity loss: the brighter pixel and the stronger edge of the two bands."""

from kornia.metrics import ssim

from clipfuse.losses.base import FusionLoss
from clipfuse.ops.filters import sobel_magnitude
from clipfuse.types import LossInputs, LossOutput


class PixelLoss(FusionLoss):
    """Maximum-intensity L1 plus maximum-gradient L1, with an optional structural term.

    total = w_i mean|F - max(I, V)| + w_g mean|G(F) - max(G(I), G(V))|
          + w_s (1 - (SSIM(F, I) + SSIM(F, V)) / 2)

    G is |Sobel_x| + |Sobel_y| with zero border. Source: the fusion loss of SeAFusion (Tang et al.,
    Information Fusion 2022) as CDDFuse and PromptFusion release it, whose weights (1 and 10) are the
    defaults; SSIM after Wang et al., TIP 2004, Gaussian window 11, sigma 1.5.

    Args:
        intensity_weight: w_i, not negative.
        gradient_weight: w_g, not negative.
        ssim_weight: w_s, not negative; 0 leaves the term out of computation and log. The published
            SSIM losses of this family are (1 - SSIM) / 2, half of ours.

    Raises:
        ValueError: a weight is negative, or all are 0.
    """

    def __init__(
        self, intensity_weight: float = 1.0, gradient_weight: float = 10.0, ssim_weight: float = 0.0
    ) -> None:
        super().__init__()
        weights = {
            "intensity_weight": intensity_weight,
            "gradient_weight": gradient_weight,
            "ssim_weight": ssim_weight,
        }
        for key, weight in weights.items():
            if weight < 0:
                raise ValueError(f"pixel loss: {key} is {weight}; expected 0 or more")
        if not any(weights.values()):
            raise ValueError("pixel loss: all weights are 0, nothing would be trained; set one above 0")
        self.intensity_weight = intensity_weight
        self.gradient_weight = gradient_weight
        self.ssim_weight = ssim_weight

    def setup(self, sample: LossInputs) -> None:
        """Refuse crops smaller than the SSIM window."""
        height, width = sample.fused.shape[-2:]
        if self.ssim_weight and min(height, width) < 11:
            raise ValueError(
                f"pixel loss: SSIM needs crops of 11 px or more, got {height}x{width}; raise crop_size"
            )

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Return the weighted sum; terms `intensity`, `gradient` and, if weighted, `ssim`."""
        fused, infrared, visible = inputs.fused, inputs.infrared, inputs.visible
        brighter = infrared.maximum(visible)
        stronger = sobel_magnitude(infrared).maximum(sobel_magnitude(visible))
        terms = {
            "intensity": (fused - brighter).abs().mean(),
            "gradient": (sobel_magnitude(fused) - stronger).abs().mean(),
        }
        total = self.intensity_weight * terms["intensity"] + self.gradient_weight * terms["gradient"]
        if self.ssim_weight:
            terms["ssim"] = 1 - (ssim(fused, infrared, 11).mean() + ssim(fused, visible, 11).mean()) / 2
            total = total + self.ssim_weight * terms["ssim"]
        return LossOutput(total, {name: term.detach() for name, term in terms.items()})
