"""Loss plugins: `conf/loss/x.yaml` names the class in `losses/x.py`."""

from typing import TYPE_CHECKING

from clipfuse.lazy import attach

if TYPE_CHECKING:
    from clipfuse.losses.adversarial import AdversarialLoss
    from clipfuse.losses.autofuse import AutoFuseLoss
    from clipfuse.losses.balanced import BalancedLoss
    from clipfuse.losses.base import BilevelLoss, FusionLoss
    from clipfuse.losses.clip_ratio import ClipRatioLoss
    from clipfuse.losses.ldfusion import LDFusionLoss
    from clipfuse.losses.learned_loss import LearnedLoss
    from clipfuse.losses.lpips import LpipsLoss
    from clipfuse.losses.pixel import PixelLoss
    from clipfuse.losses.promptfusion import PromptFusionLoss
    from clipfuse.losses.promptfusion_views import PromptFusionViewsLoss
    from clipfuse.losses.region_contrast import RegionContrastLoss
    from clipfuse.losses.task import TaskLoss
    from clipfuse.losses.text_weights import TextWeightsLoss
    from clipfuse.losses.weighted_sum import BilevelWeightedSum, WeightedSum

__all__ = [
    "AdversarialLoss",
    "AutoFuseLoss",
    "BalancedLoss",
    "BilevelLoss",
    "BilevelWeightedSum",
    "ClipRatioLoss",
    "FusionLoss",
    "LDFusionLoss",
    "LearnedLoss",
    "LpipsLoss",
    "PixelLoss",
    "PromptFusionLoss",
    "PromptFusionViewsLoss",
    "RegionContrastLoss",
    "TaskLoss",
    "TextWeightsLoss",
    "WeightedSum",
]
__getattr__, __dir__ = attach(
    __name__,
    {
        "adversarial": ("AdversarialLoss",),
        "autofuse": ("AutoFuseLoss",),
        "balanced": ("BalancedLoss",),
        "base": ("BilevelLoss", "FusionLoss"),
        "clip_ratio": ("ClipRatioLoss",),
        "ldfusion": ("LDFusionLoss",),
        "learned_loss": ("LearnedLoss",),
        "lpips": ("LpipsLoss",),
        "pixel": ("PixelLoss",),
        "promptfusion": ("PromptFusionLoss",),
        "promptfusion_views": ("PromptFusionViewsLoss",),
        "region_contrast": ("RegionContrastLoss",),
        "task": ("TaskLoss",),
        "text_weights": ("TextWeightsLoss",),
        "weighted_sum": ("BilevelWeightedSum", "WeightedSum"),
    },
)
