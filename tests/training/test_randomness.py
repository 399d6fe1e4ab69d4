import random
from io import BytesIO

import numpy as np
import torch

from clipfuse.training.randomness import random_state, restore_random_state


def draws() -> list[float]:
    return [random.random(), float(np.random.normal()), float(torch.rand(())), random.gauss(0, 1)]


def test_a_restored_state_repeats_the_draws_also_from_a_file() -> None:
    draws()  # leaves NumPy and Python with half of a pair of normal numbers
    content = BytesIO()
    torch.save(random_state(), content)
    expected = [draws(), draws()]
    draws()
    content.seek(0)
    restore_random_state(torch.load(content, weights_only=True))
    assert [draws(), draws()] == expected


def test_a_state_with_cuda_is_restored_without_it() -> None:
    state = random_state() | {"cuda": torch.zeros(16, dtype=torch.uint8)}
    expected = draws()
    if not torch.cuda.is_available():
        restore_random_state(state)
        assert draws() == expected
