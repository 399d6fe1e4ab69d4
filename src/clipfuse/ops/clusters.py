"""k-means of each sample's own vectors, with seeded first centres."""

from collections.abc import Sequence

import torch
from torch import Tensor

from clipfuse.ops.sending import send


def clusters(vectors: Tensor, count: int, seeds: Sequence[int], rounds: int = 10) -> Tensor:
    """Return the cluster of each vector; clusters may be empty. No gradient.

    Lloyd's algorithm with a fixed number of rounds after the first centres of k-means++ (Arthur and
    Vassilvitskii, SODA 2007): each is drawn with a probability that grows with the squared distance to the
    nearest one before.

    Args:
        vectors: (N, P, C) float.
        count: clusters of each sample, 1 or more.
        seeds: one per sample, from which its draws come; those of other samples do not change them.
        rounds: of moving centres to the means of their vectors, 0 or more.

    Returns:
        (N, P) int64, from 0 to count - 1.
    """
    vectors = vectors.detach()
    drawn_shares = [
        torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for seed in seeds
    ]
    draws = send(torch.stack(drawn_shares), vectors.device)
    chances = torch.ones(vectors.shape[:2], dtype=torch.float64, device=vectors.device)
    upper = torch.ones_like(chances[:1]).expand(vectors.shape[1], -1).triu()
    centres = vectors[:, :0]
    for index in range(count):
        sums = chances @ upper  # cumulative sums, whose own function is not deterministic on CUDA
        drawn = torch.searchsorted(sums, draws[:, index, None] * sums[:, -1:], right=True)
        drawn = drawn.clamp(max=vectors.shape[1] - 1)  # where all chances are 0
        centres = torch.cat([centres, vectors.take_along_dim(drawn.unsqueeze(-1), 1)], 1)
        chances = _distances(vectors, centres).amin(2).double()
    for _ in range(rounds):
        own = torch.nn.functional.one_hot(_distances(vectors, centres).argmin(2), count).to(vectors.dtype)
        sizes = own.sum(1).unsqueeze(-1)
        means = own.transpose(1, 2) @ vectors / sizes.clamp(min=1)
        centres = torch.where(sizes > 0, means, centres)
    return _distances(vectors, centres).argmin(2)


def _distances(vectors: Tensor, centres: Tensor) -> Tensor:
    """Return squared distances, (N, P, K)."""
    return torch.stack([(vectors - each.unsqueeze(1)).square().sum(2) for each in centres.unbind(1)], 2)
