"""Networks and their files: loaded, checked, applied, exported. Torch alone, no trainer and no Hydra."""

from typing import TYPE_CHECKING

from clipfuse.lazy import attach

if TYPE_CHECKING:
    from clipfuse.networks.apply import apply_network
    from clipfuse.networks.export import write_onnx
    from clipfuse.networks.load import load_network
    from clipfuse.networks.onnx import OnnxNetwork
    from clipfuse.networks.weights import write_safetensors

__all__ = ["OnnxNetwork", "apply_network", "load_network", "write_onnx", "write_safetensors"]
__getattr__, __dir__ = attach(
    __name__,
    {
        "apply": ("apply_network",),
        "export": ("write_onnx",),
        "load": ("load_network",),
        "onnx": ("OnnxNetwork",),
        "weights": ("write_safetensors",),
    },
)
