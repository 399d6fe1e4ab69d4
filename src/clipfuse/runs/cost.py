"""Time and memory that a training takes, for `status.json`."""

import sys
from time import monotonic
from typing import Any

import torch


class Cost:
    """Measures one fit: made when it starts, read by `record` when it ends.

    Args:
        device: the device on which the network is trained.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.start = monotonic()

    def record(self, before: int, updates: int, samples: int) -> dict[str, Any]:
        """Return the cost of a fit since the start.

        Args:
            before: updates that an earlier part of a resumed run has done.
            updates: updates of the whole run.
            samples: samples of the whole run, over all ranks.

        Returns:
            `seconds` of wall clock, validation included; `updates` and `samples` of this part;
            `peak_memory_mb` of this rank in MB (10^6 bytes): what tensors took on a GPU, else the
            largest resident set of the process, libraries included; None where the system does not
            report it; `device`: the GPU's name, or the type of the device.
        """
        cuda = self.device.type == "cuda"
        return {
            "seconds": round(monotonic() - self.start, 3),
            "updates": updates - before,
            "samples": samples * (updates - before) // max(1, updates),
            "peak_memory_mb": self._allocated() if cuda else _resident(),
            "device": torch.cuda.get_device_name(self.device) if cuda else self.device.type,
        }

    def _allocated(self) -> float:
        return round(torch.cuda.max_memory_allocated(self.device) / 1e6, 1)


def _resident() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
