"""Weights of several losses that learn: by uncertainty, and by the norms of gradients (GradNorm)."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from clipfuse.ops.plain import plain_tensors
from clipfuse.ops.ranks import sum_over_ranks

_GREATEST = 1e4  # factor that a loss near 0 can get by its uncertainty
_LEAST_NORM = 1e-4  # share of the mean norm; below it a part counts as this
_RATIOS = (1e-2, 1e2)  # range of a part's progress


@lru_cache(maxsize=16)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with plain_tensors():
        return torch.tensor(values, dtype=dtype, device=device)


class UncertaintyWeights(nn.Module):
    """exp(-s_i) p_i L_i + s_i for each part, with a learnt s_i that begins at 0.

    Where the others stand still the optimum is s_i = log(p_i L_i): each part ends up with a weighted value
    of 1, and has the weight 1 / L_i. Source: Kendall, Gal and Cipolla, CVPR 2018, with s = log sigma^2. There
    a regression has exp(-s)/2 L + s/2 (half of this form, so the same weights among regressions), and a
    classification exp(-s) L + s/2, whose optimum is s = log 2L. One form for all parts is own design, since a
    fusion loss is neither likelihood. The factor exp(-s_i) is 1e4 at most, which a loss of 0 or less
    gets.

    Args:
        shares: p_i by name, above 0.
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        super().__init__()
        self.shares = tuple(map(float, shares.values()))
        self.log_variances = nn.Parameter(torch.zeros(len(shares)))

    def forward(self, totals: Sequence[Tensor], fused: Tensor, step: int) -> Tensor:
        """Return the weights p_i exp(-s_i), with gradient, (P,)."""
        factors = (-self.log_variances).exp().clamp(max=_GREATEST)
        return factors * _constant(self.shares, factors.dtype, factors.device)

    def regularization(self) -> Tensor:
        """Return the sum of s_i, which is added to the total; where a factor ends, its s_i does, too."""
        return self.log_variances.clamp(min=-math.log(_GREATEST)).sum()


class GradientNormWeights(nn.Module):
    """Weights under which the gradients of all parts have norms in a wanted proportion (GradNorm).

    w_i = c p_i q_i^alpha / g_i,   sum_i w_i = sum_i p_i,   q_i = (L_i / L_i(0)) / mean_j (L_j / L_j(0))

    g_i is the norm of the gradient of the mean loss L_i with respect to the fused images, since a loss sees
    no layer of the network. So w_i g_i is proportional to p_i q_i^alpha: equal norms for equal p_i and
    alpha=0, greater ones for parts that fall more slowly for alpha > 0.

    Source: GradNorm (Chen et al., ICML 2018), whose weights follow |w_i g_i - mean_j(w_j g_j) q_i^alpha| by
    gradient steps with a rate of their own. Own design: these weights are where that is 0, in closed form, of
    running means of log g_i and L_i, which take the place of the rate. So no optimiser steps in the loss.
    They change once per update, in training, are buffers, and are computed of all ranks. A norm below 1e-4 of
    the mean one counts as that, and a progress L_i / L_i(0) lies in 0.01 to 100.

    Args:
        shares: p_i by name, above 0.
        alpha: 0 or more.
        memory: share of the running means that stays in each update, in [0, 1).
    """

    weights: Tensor
    norms: Tensor
    values: Tensor
    first: Tensor
    last: Tensor

    def __init__(self, shares: Mapping[str, float], alpha: float = 1.5, memory: float = 0.9) -> None:
        super().__init__()
        self.shares, self.alpha, self.memory = tuple(map(float, shares.values())), alpha, memory
        self.register_buffer("weights", torch.tensor(self.shares))
        for name in ("norms", "values", "first"):
            self.register_buffer(name, torch.zeros(len(shares)))
        self.register_buffer("last", torch.tensor(-1))
        self._seen: tuple[Tensor, int, int] | None = None  # `last`, its version and its value, read once

    def forward(self, totals: Sequence[Tensor], fused: Tensor, step: int) -> Tensor:
        """Return the weights, (P,), after they have followed a new update.

        Args:
            totals: L_i, with graph.
            fused: what they are of.
            step: number of the update.
        """
        if self.training and torch.is_grad_enabled() and fused.requires_grad and self._last() != step:
            self._follow(totals, fused)
            self.last.fill_(step)
            self._seen = self.last, self.last._version, step
        return self.weights

    def _last(self) -> int:
        """Return `last`; a GPU is read only where something else than this module has changed it."""
        if self._seen is None or self._seen[0] is not self.last or self._seen[1] != self.last._version:
            self._seen = self.last, self.last._version, int(self.last)
        return self._seen[2]

    def _follow(self, totals: Sequence[Tensor], fused: Tensor) -> None:
        squares = []
        for total in totals:
            slope = None
            if total.requires_grad:
                (slope,) = torch.autograd.grad(total, fused, retain_graph=True, allow_unused=True)
            squares.append(
                self.norms.new_zeros(()) if slope is None else slope.to(self.norms.dtype).square().sum()
            )
        with torch.no_grad():
            mine = torch.stack([*squares, *(total.detach().to(squares[0]) for total in totals)])
            whole = sum_over_ranks(mine)
            sound = whole.isfinite().all()  # on all ranks alike; the training reports it
            square, value = whole.chunk(2)
            norm = square.sqrt()
            norm = norm.maximum(_LEAST_NORM * norm.mean()).clamp(min=1e-30).log()
            if self._last() < 0:
                for kept, new in ((self.norms, norm), (self.values, value), (self.first, value)):
                    kept.copy_(torch.where(sound, new, kept))
            for kept, new in ((self.norms, norm), (self.values, value)):
                kept.copy_(torch.where(sound, kept.lerp(new, 1 - self.memory), kept))
            progress = (self.values / self.first.clamp(min=1e-12)).clamp(*_RATIOS)
            logs = self.alpha * (progress / progress.mean()).log() - self.norms
            shares = _constant(self.shares, self.weights.dtype, self.weights.device)
            found = shares.sum() * (shares.log() + logs).softmax(0)
            self.weights.copy_(torch.where(sound, found, self.weights))
