import torch

from clipfuse.ops.noise import seeded_noise

PLANES = torch.full((3, 2, 40, 50), 0.5)


def test_is_drawn_by_seed_step_and_sample_alone() -> None:
    """Ranks see parts of a batch, a resumed run starts with another global state: neither matters."""
    whole = seeded_noise(PLANES, 0.03, 1, 5, ("a", "b", "c"))
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    assert torch.equal(seeded_noise(PLANES[:2], 0.03, 1, 5, ("c", "a")), whole[[2, 0]])
    assert torch.equal(torch.random.get_rng_state(), before)
    for seed, step, name in ((2, 5, "a"), (1, 6, "a"), (1, 5, "b")):
        assert not torch.equal(seeded_noise(PLANES[:1], 0.03, seed, step, (name,)), whole[:1])


def test_has_the_spread_asked_for_and_stays_in_range() -> None:
    noise = seeded_noise(PLANES, 0.03, 0, 0, ("a", "b", "c")) - 0.5
    assert abs(float(noise.mean())) < 1e-3
    assert abs(float(noise.std()) - 0.03) < 1e-3
    assert abs(float((noise[:, 0] * noise[:, 1]).mean())) < 1e-4  # the bands differ
    strong = seeded_noise(PLANES, 1.0, 0, 0, ("a", "b", "c"))
    assert 0 == strong.min() < strong.max() == 1
    assert torch.equal(seeded_noise(PLANES, 0.0, 0, 0, ("a", "b", "c")), PLANES)
