"""Seeds of what is named."""

import hashlib

from clipfuse.ops.seeding import derived_seed


def test_a_seed_is_the_head_of_a_hash_of_its_parts() -> None:
    digest = hashlib.sha256(b"7/12/train-3").hexdigest()
    assert derived_seed(7, 12, "train-3") == int(digest[:8], 16)


def test_each_part_and_their_order_count() -> None:
    parts = [(1, 2, "a"), (2, 1, "a"), (1, 2, "b"), (1, 2), (1, 22, "a"), (12, 2, "a"), ("1", "2a")]
    seeds = [derived_seed(*each) for each in parts]
    assert len(set(seeds)) == len(parts)
    assert all(0 <= seed < 2**32 for seed in seeds)
