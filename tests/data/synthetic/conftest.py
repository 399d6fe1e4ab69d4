"""An empty street to paint on."""

from collections.abc import Callable

import numpy as np
import pytest

from clipfuse.data.synthetic.canvas import DEPTH, FAR, HEAT, Camera, Canvas


@pytest.fixture
def canvas() -> Callable[..., Canvas]:
    """Make a canvas of 128 pixels, everything 10 degrees warm and far away, from a camera above x = 0."""

    def make(size: int = 128, **camera: float) -> Canvas:
        plain = {"focal": 1.2, "horizon": 0.4, "vanish": 0.5, "height": 1.5, "lateral": 0.0, "bend": 0.0}
        made = Canvas(Camera(size, **(plain | camera)), -20.0, np.random.default_rng(0))
        made.buffer[..., HEAT], made.buffer[..., DEPTH] = 10, FAR
        return made

    return make
