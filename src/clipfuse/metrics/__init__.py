"""Fusion metrics: pure functions, torchmetrics classes, and the protocols that name their conventions."""

from clipfuse.metrics.base import FusionMetric, FusionMetrics, RunMetrics
from clipfuse.metrics.baselines import baselines
from clipfuse.metrics.definition import DEFINITIONS, metric
from clipfuse.metrics.protocols import PROTOCOLS, Protocol
from clipfuse.metrics.sharing import sharing

__all__ = [
    "DEFINITIONS",
    "PROTOCOLS",
    "FusionMetric",
    "FusionMetrics",
    "Protocol",
    "RunMetrics",
    "baselines",
    "metric",
    "sharing",
]
