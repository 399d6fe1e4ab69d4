"""ClipFuse: infrared-visible image fusion where only the loss changes and the numbers can be trusted."""

from typing import TYPE_CHECKING

from clipfuse.lazy import attach
from clipfuse.version import __version__

if TYPE_CHECKING:
    from clipfuse import backbones, bilevel, clip, contourlet, losses, metrics, networks
    from clipfuse.api.comparing import compare
    from clipfuse.api.fusing import fuse, read_pair
    from clipfuse.api.listing import list_backbones, list_losses, list_metrics
    from clipfuse.api.scoring import score
    from clipfuse.api.training import train
    from clipfuse.errors import UserError
    from clipfuse.networks.load import load_network

__all__ = [
    "UserError",
    "__version__",
    "backbones",
    "bilevel",
    "clip",
    "compare",
    "contourlet",
    "fuse",
    "list_backbones",
    "list_losses",
    "list_metrics",
    "load_network",
    "losses",
    "metrics",
    "networks",
    "read_pair",
    "score",
    "train",
]
__getattr__, __dir__ = attach(
    __name__,
    {
        "api.comparing": ("compare",),
        "api.fusing": ("fuse", "read_pair"),
        "api.listing": ("list_backbones", "list_losses", "list_metrics"),
        "api.scoring": ("score",),
        "api.training": ("train",),
        "errors": ("UserError",),
        "networks.load": ("load_network",),
        **dict.fromkeys(("backbones", "bilevel", "clip", "contourlet", "losses", "metrics", "networks"), ()),
    },
)
