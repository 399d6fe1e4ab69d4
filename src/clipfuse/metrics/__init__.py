"""Fusion metrics: pure functions, torchmetrics classes, and the protocols that name their conventions."""

from typing import TYPE_CHECKING

from clipfuse.lazy import attach
from clipfuse.metrics.balanced import (
    clean_detail,
    kept_information,
    kept_structure,
    kept_targets,
    local_detail,
)
from clipfuse.metrics.baselines import baselines
from clipfuse.metrics.contrast import average_gradient, spatial_frequency, standard_deviation
from clipfuse.metrics.correlation import correlation_coefficient, sum_of_correlations_of_differences
from clipfuse.metrics.definition import DEFINITIONS, metric
from clipfuse.metrics.feature_information import (
    feature_mutual_information_gradient,
    feature_mutual_information_pixel,
)
from clipfuse.metrics.fidelity import mean_squared_error, peak_signal_to_noise_ratio
from clipfuse.metrics.gradients import edge_preservation, fusion_artifacts
from clipfuse.metrics.information import entropy, mutual_information, normalized_mutual_information
from clipfuse.metrics.perception import contrast_preservation, visible_difference
from clipfuse.metrics.protocols import PROTOCOLS, Protocol
from clipfuse.metrics.scoring import Scorer
from clipfuse.metrics.sharing import sharing
from clipfuse.metrics.structure import multi_scale_structural_similarity, structural_similarity
from clipfuse.metrics.visibility import noise_score, target_contrast
from clipfuse.metrics.visual_information import fusion_information_fidelity, visual_information_fidelity

if TYPE_CHECKING:
    from clipfuse.metrics.base import FusionMetric, FusionMetrics, RunMetrics

# The short names that everybody knows.
ms_ssim, psnr, ssim = multi_scale_structural_similarity, peak_signal_to_noise_ratio, structural_similarity
qabf, vif = edge_preservation, visual_information_fidelity

__all__ = [
    "DEFINITIONS",
    "PROTOCOLS",
    "FusionMetric",
    "FusionMetrics",
    "Protocol",
    "RunMetrics",
    "Scorer",
    "average_gradient",
    "baselines",
    "clean_detail",
    "contrast_preservation",
    "correlation_coefficient",
    "edge_preservation",
    "entropy",
    "feature_mutual_information_gradient",
    "feature_mutual_information_pixel",
    "fusion_artifacts",
    "fusion_information_fidelity",
    "kept_information",
    "kept_structure",
    "kept_targets",
    "local_detail",
    "mean_squared_error",
    "metric",
    "ms_ssim",
    "multi_scale_structural_similarity",
    "mutual_information",
    "noise_score",
    "normalized_mutual_information",
    "peak_signal_to_noise_ratio",
    "psnr",
    "qabf",
    "sharing",
    "spatial_frequency",
    "ssim",
    "standard_deviation",
    "structural_similarity",
    "sum_of_correlations_of_differences",
    "target_contrast",
    "vif",
    "visible_difference",
    "visual_information_fidelity",
]
# torchmetrics, which `base` needs, takes seconds to import.
__getattr__, __dir__ = attach(__name__, {"base": ("FusionMetric", "FusionMetrics", "RunMetrics")})
