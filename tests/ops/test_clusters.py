import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from clipfuse.ops.clusters import clusters


def blobs(
    samples: int = 3, each: int = 40, kinds: int = 4, width: int = 6
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    centres = 4 * torch.randn(samples, kinds, width, generator=generator, dtype=torch.float64)
    own = torch.arange(kinds).repeat_interleave(each)
    noise = torch.randn(samples, kinds * each, width, generator=generator, dtype=torch.float64)
    return centres[:, own] + noise, centres


def test_equals_lloyd_s_algorithm_of_scikit_learn_from_the_same_centres() -> None:
    """Without rounds the clusters are those of the first centres; from their means sklearn goes on."""
    vectors, _ = blobs()
    seeds = [3, 4, 5]
    first, last = clusters(vectors, 4, seeds, rounds=0), clusters(vectors, 4, seeds, rounds=10)
    for sample, begun, found in zip(vectors.numpy(), first.numpy(), last.numpy(), strict=True):
        means = np.stack([sample[begun == index].mean(0) for index in range(4)])
        theirs = KMeans(4, init=means, n_init=1, max_iter=300, tol=0, algorithm="lloyd").fit(sample)
        assert (theirs.labels_ == found).all()


def test_each_first_centre_is_far_from_those_before() -> None:
    """Four tight groups far apart: each gets one of four centres, where even draws would leave one out."""
    vectors, _ = blobs(samples=200, each=5)
    vectors[:, :, 0] += 1000 * torch.arange(4).repeat_interleave(5)
    found = clusters(vectors, 4, range(200), rounds=0)
    assert all(len(each.unique()) == 4 for each in found)


def test_a_sample_s_clusters_depend_on_its_own_seed_alone() -> None:
    vectors, _ = blobs()
    state = torch.random.get_rng_state()
    found = clusters(vectors, 3, [1, 2, 3])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(clusters(vectors[[2, 0]], 3, [3, 1]), found[[2, 0]])
    others = [clusters(vectors[:1], 3, [seed], rounds=0) for seed in range(20)]
    assert any(not torch.equal(others[0], each) for each in others)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_equal_and_few_vectors_leave_clusters_empty(kind: torch.dtype) -> None:
    assert clusters(torch.ones(2, 7, 3, dtype=kind), 4, [0, 1]).unique().tolist() == [0]
    few = torch.eye(2, dtype=kind)[None]
    assert len(clusters(few, 5, [0]).unique()) == 2
