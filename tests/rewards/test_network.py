import pytest
import torch

from clipfuse.rewards.network import RewardNetwork


def test_it_is_small_and_takes_any_size_without_coupling_samples() -> None:
    network = RewardNetwork().eval()
    assert sum(value.numel() for value in network.parameters()) < 200_000
    draws = torch.Generator().manual_seed(0)
    for height, width in ((1, 1), (7, 13), (33, 40)):
        planes = torch.rand(3, 2, 1, height, width, generator=draws)
        with torch.no_grad():
            scores, marks = network(*planes)
            alone, _ = network(*planes[:, 1:])
        assert (scores.shape, marks.shape) == ((2, 5), (2, 1, height, width))
        assert bool(scores.isfinite().all())
        torch.testing.assert_close(scores[1:], alone, rtol=1e-4, atol=1e-5)


def test_the_seed_makes_the_weights_and_the_global_state_stays() -> None:
    state = torch.random.get_rng_state()
    first, second, other = (RewardNetwork(("overall",), seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.stem.weight, second.stem.weight)
    assert not torch.equal(first.stem.weight, other.stem.weight)
    assert first.judge.out_features == 1


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_flat_images_have_a_finite_gradient(level: float) -> None:
    fused = torch.full((1, 1, 16, 16), level, requires_grad=True)
    scores, marks = RewardNetwork()(fused, fused.detach(), fused.detach())
    (slope,) = torch.autograd.grad(scores.sum() + marks.sum(), fused)
    assert bool(slope.isfinite().all())
