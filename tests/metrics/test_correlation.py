import numpy as np
import pytest
import torch
from torch import Tensor

from clipfuse.metrics.definition import DEFINITIONS


def planes(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [255 * torch.rand(1, 1, 12, 17, dtype=torch.float64, generator=generator) for _ in range(3)]


def test_equals_numpy() -> None:
    fused, infrared, visible = planes()
    f, a, b = (plane.numpy().ravel() for plane in (fused, infrared, visible))

    def r(x: np.ndarray, y: np.ndarray) -> float:
        return np.corrcoef(x, y)[0, 1]

    cc = DEFINITIONS["CC"].kernel(fused, infrared, visible).item()
    scd = DEFINITIONS["SCD"].kernel(fused, infrared, visible).item()
    # Rounding of two summation orders.
    assert cc == pytest.approx((r(a, f) + r(b, f)) / 2, rel=1e-11)
    assert scd == pytest.approx(r(a, f - b) + r(b, f - a), rel=1e-11)


def test_identities_and_constants() -> None:
    fused, infrared, _ = planes()
    constant = torch.full_like(fused, 17.3)
    cc, scd = DEFINITIONS["CC"].kernel, DEFINITIONS["SCD"].kernel
    # Sums of 204 products: 204 * 2**-53.
    assert cc(fused, fused, fused).item() == pytest.approx(1, abs=1e-13)
    assert cc(255 - fused, fused, fused).item() == pytest.approx(-1, abs=1e-13)
    assert cc(fused, fused, constant).item() == pytest.approx(0.5)
    assert cc(constant, fused, infrared).item() == 0
    assert scd(fused, fused, fused).item() == 0  # nothing is left to explain
    assert scd(constant, constant, constant).item() == 0


def test_noise_and_inversion_lower_it() -> None:
    _, infrared, visible = planes()
    infrared, visible = (
        torch.nn.functional.interpolate(plane, (96, 96), mode="bilinear") for plane in (infrared, visible)
    )
    good = (infrared + visible) / 2
    noisy = (good + 60 * torch.randn(good.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 255)
    for name in ("CC", "SCD"):
        score = DEFINITIONS[name].kernel
        assert score(good, infrared, visible) > score(noisy, infrared, visible)
        assert score(noisy, infrared, visible) > score(255 - good, infrared, visible)


@pytest.mark.parametrize("name", ["CC", "SCD"])
def test_gradient(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [255 * torch.rand(1, 1, 4, 5, dtype=torch.float64, generator=generator) for _ in range(3)]
    assert torch.autograd.gradcheck(
        DEFINITIONS[name].kernel, tuple(plane.requires_grad_() for plane in inputs)
    )
