import torch

from clipfuse.ops.seeding import derived_seed


def test_seeds_are_of_32_bits_and_differ_in_every_part() -> None:
    seeds = [derived_seed(seed, step, name) for seed in range(8) for step in range(8) for name in ("a", "b")]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)
    # The parts are separated: ("1", "23") is not ("12", "3").
    assert derived_seed(1, 23) != derived_seed(12, 3)
    # A record: resumed runs of an older version must get the same draws.
    assert derived_seed(3, 7, "scene_1") == 3141951631
    draws = {torch.rand((), generator=torch.Generator().manual_seed(seed)).item() for seed in seeds}
    assert len(draws) == len(seeds)
