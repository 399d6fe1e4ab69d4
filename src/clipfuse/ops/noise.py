"""Noise that depends on neither ranks, workers, resume nor the global random state."""

from collections.abc import Sequence

import torch
from torch import Tensor

from clipfuse.ops.seeding import derived_seed
from clipfuse.ops.sending import send


def seeded_noise(planes: Tensor, sigma: float, seed: int, step: int, sample_ids: Sequence[str]) -> Tensor:
    """Return planes with N(0, sigma^2) added, clamped to [0, 1].

    LDFusion's release adds it to the network's inputs, without the clamp; its loss gets the clean images.

    Args:
        planes: (N, C, H, W) in [0, 1]; not changed.
        sigma: standard deviation, 0 or more.
        seed: the run's seed.
        step: number of updates before this one.
        sample_ids: N names; the noise of a sample is drawn by (seed, step, name).
    """
    draws = []
    for name in sample_ids:
        generator = torch.Generator().manual_seed(derived_seed(seed, step, "input noise", name))
        draws.append(torch.randn(planes.shape[1:], generator=generator))
    noise = send(torch.stack(draws), planes.device, planes.dtype)
    return (planes + sigma * noise).clamp(0, 1)
