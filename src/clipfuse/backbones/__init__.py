"""Fusion networks: `conf/backbone/x.yaml` names the class in `backbones/x.py`."""

from typing import TYPE_CHECKING

from clipfuse.lazy import attach

if TYPE_CHECKING:
    from clipfuse.backbones.base import FusionBackbone
    from clipfuse.backbones.contourlet_autoencoder import ContourletAutoencoder
    from clipfuse.backbones.conv_tiny import ConvTiny
    from clipfuse.backbones.ldfusion import LDFusion
    from clipfuse.backbones.student import Student

__all__ = [
    "ContourletAutoencoder",
    "ConvTiny",
    "FusionBackbone",
    "LDFusion",
    "Student",
]
__getattr__, __dir__ = attach(
    __name__,
    {
        "base": ("FusionBackbone",),
        "contourlet_autoencoder": ("ContourletAutoencoder",),
        "conv_tiny": ("ConvTiny",),
        "ldfusion": ("LDFusion",),
        "student": ("Student",),
    },
)
