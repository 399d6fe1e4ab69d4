"""The first protocol: three metrics that need no decision between toolkits, nor claim one."""

from clipfuse.metrics.base import FusionMetrics
from clipfuse.metrics.contrast import StandardDeviation
from clipfuse.metrics.information import Entropy
from clipfuse.metrics.structure import StructuralSimilarity


def basic_metrics() -> FusionMetrics:
    """Return EN, SD and SSIM under the protocol "basic-0"."""
    return FusionMetrics(
        "basic-0", {"EN": Entropy(), "SD": StandardDeviation(), "SSIM": StructuralSimilarity()}
    )
