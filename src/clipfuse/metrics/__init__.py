"""Fusion metrics: functions of images, torchmetrics classes, and the protocols that name their conventions.

Every function takes (fused, infrared, visible), luma (N, 1, H, W) in [0, 1], or in 0..255 with
`data_range=255`; it rounds them to 8 bits and returns one score per image, (N,) float64. See `metric`.
"""

from typing import TYPE_CHECKING

from clipfuse.lazy import attach
from clipfuse.metrics.balanced import (
    clean_detail,
    kept_information,
    kept_structure,
    kept_targets,
    local_detail,
)
from clipfuse.metrics.contrast import average_gradient, spatial_frequency, standard_deviation
from clipfuse.metrics.correlation import correlation_coefficient, scd
from clipfuse.metrics.definition import DEFINITIONS, metric
from clipfuse.metrics.feature_information import fmi_gradient, fmi_pixel
from clipfuse.metrics.fidelity import mse, psnr
from clipfuse.metrics.gradients import nabf, qabf
from clipfuse.metrics.information import entropy, mutual_information, normalized_mutual_information
from clipfuse.metrics.learned import lpips
from clipfuse.metrics.perception import qcb, qcv
from clipfuse.metrics.protocols import PROTOCOLS, Protocol
from clipfuse.metrics.scoring import Scorer
from clipfuse.metrics.sharing import sharing
from clipfuse.metrics.structure import ms_ssim, ssim
from clipfuse.metrics.trivial import trivial_fusions
from clipfuse.metrics.visibility import noise_score, target_contrast
from clipfuse.metrics.visual_information import vif, viff

if TYPE_CHECKING:
    from clipfuse.metrics.base import FusionMetric, FusionMetrics, RunMetrics

__all__ = [
    "DEFINITIONS",
    "PROTOCOLS",
    "FusionMetric",
    "FusionMetrics",
    "Protocol",
    "RunMetrics",
    "Scorer",
    "average_gradient",
    "clean_detail",
    "correlation_coefficient",
    "entropy",
    "fmi_gradient",
    "fmi_pixel",
    "kept_information",
    "kept_structure",
    "kept_targets",
    "local_detail",
    "lpips",
    "metric",
    "ms_ssim",
    "mse",
    "mutual_information",
    "nabf",
    "noise_score",
    "normalized_mutual_information",
    "psnr",
    "qabf",
    "qcb",
    "qcv",
    "scd",
    "sharing",
    "spatial_frequency",
    "ssim",
    "standard_deviation",
    "target_contrast",
    "trivial_fusions",
    "vif",
    "viff",
]

# torchmetrics, which `base` needs, takes 2.5 s of CPU to import, more than torch itself.
__getattr__, __dir__ = attach(__name__, {"base": ("FusionMetric", "FusionMetrics", "RunMetrics")})
