"""What tests of single metrics need to ask a protocol."""

from collections.abc import Callable

import pytest
from torch import Tensor

from clipfuse.metrics.protocols import PROTOCOLS


@pytest.fixture(scope="session")
def scored() -> Callable[..., float]:
    """Return the score of a metric under a protocol: of (protocol, metric, fused, infrared, visible)."""

    def score(protocol: str, name: str, *planes: Tensor) -> float:
        chosen = PROTOCOLS[protocol]
        return chosen.definition(name).kernel(*planes, **chosen.options.get(name, {})).item()

    return score
