from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clipfuse.losses.pixel import PixelLoss, correlations
from clipfuse.metrics.definition import DEFINITIONS
from clipfuse.testing.loss_contract import LossContract
from clipfuse.types import LossInputs, LossOutput

# What is tested here is the definition, on planes in 0..255; checks and rounding: test_definition.
scd = DEFINITIONS["SCD"].kernel

# Published values are float64 sums over 6144 pixels: 1e-9 leaves four digits for the order of summing.
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def loss_inputs(fused: Tensor, infrared: Tensor, visible: Tensor) -> LossInputs:
    chroma = torch.full_like(visible, 0.5).repeat(1, 2, 1, 1)
    ids = tuple(f"sample-{index}" for index in range(len(fused)))
    return LossInputs(fused, infrared, visible, chroma, features={}, sample_ids=ids, step=0, seed=0)


@pytest.fixture
def published(golden: np.lib.npyio.NpzFile) -> dict[str, Tensor]:
    names = {"fused": "in/pf_fused", "infrared": "in/pf_ir", "visible": "in/pf_vis"}
    return {name: torch.from_numpy(golden[key]).double() for name, key in names.items()}


def test_equals_the_published_loss_and_its_gradient(
    golden: np.lib.npyio.NpzFile, published: dict[str, Tensor]
) -> None:
    fused = published["fused"].requires_grad_()
    output: LossOutput = PixelLoss()(loss_inputs(fused, published["infrared"], published["visible"]))
    (gradient,) = torch.autograd.grad(output.total, fused)
    for key, value in {
        "total": output.total.detach(),
        "in": output.terms["intensity"],
        "grad": output.terms["gradient"],
        "dtotal_dfused": gradient,
    }.items():
        expected = torch.from_numpy(golden[f"out/pf_fusionloss_vis1_{key}_f64"])
        torch.testing.assert_close(value, expected, **EXACT)


def test_structural_term_is_twice_the_published_one(
    golden: np.lib.npyio.NpzFile, published: dict[str, Tensor]
) -> None:
    output = PixelLoss(ssim_weight=1.0)(loss_inputs(**published))
    halves = golden["out/pf_ssimloss11_vis_fused_f64"] + golden["out/pf_ssimloss11_ir_fused_f64"]
    # 1e-6: kornia builds its window in float32.
    assert float(output.terms["ssim"]) == pytest.approx(float(halves), abs=1e-6)


def test_decomposition_term_equals_the_published_one(
    golden: np.lib.npyio.NpzFile, published: dict[str, Tensor]
) -> None:
    first, second = (torch.from_numpy(golden[f"in/pf_cc_{name}"]).double() for name in "ab")
    assert float(correlations(first, second).mean()) == pytest.approx(
        float(golden["out/pf_cc_f64"]), abs=1e-9
    )
    mixed = first + 0.5 * second
    assert float(correlations(first, mixed).mean()) == pytest.approx(
        float(golden["out/pf_cc_mixed_f64"]), abs=1e-9
    )
    features = {
        "base_infrared": first,
        "base_visible": mixed,
        "detail_infrared": first,
        "detail_visible": second,
    }
    inputs = replace(loss_inputs(**published), features=features)
    output = PixelLoss(0.0, 0.0, decomposition_weight=2.0)(inputs)
    expected = float(golden["out/pf_decomp_f64"])
    assert float(output.terms["decomposition"]) == pytest.approx(expected, rel=1e-9)
    assert float(output.total) == pytest.approx(2 * expected, rel=1e-9)


def test_difference_term_is_the_metric(published: dict[str, Tensor]) -> None:
    output = PixelLoss(0.0, 0.0, difference_weight=3.0)(loss_inputs(**published))
    planes = (255 * published[name] for name in ("fused", "infrared", "visible"))
    score = float(scd(*planes).mean())
    # A grey level beside standard deviations of 20 or more changes a correlation by 1 / 400 at most.
    assert float(output.total) == pytest.approx(3 * (1 - score / 2), abs=3 / 400)


def test_difference_term_by_a_plain_second_implementation(published: dict[str, Tensor]) -> None:
    def correlation(first: np.ndarray, second: np.ndarray) -> float:
        a, b = first - first.mean(), second - second.mean()
        spread = np.sqrt(((a**2).mean() + 1 / 255**2) * ((b**2).mean() + 1 / 255**2))
        return float((a * b).mean() / spread)

    fused, infrared, visible = (published[name].numpy() for name in ("fused", "infrared", "visible"))
    expected = np.mean(
        [
            1 - (correlation(f - v, i) + correlation(f - i, v)) / 2
            for f, i, v in zip(fused, infrared, visible, strict=True)
        ]
    )
    output = PixelLoss(0.0, 0.0, difference_weight=1.0)(loss_inputs(**published))
    # 1e-8: float32's epsilon beside a sum of squares above 10.
    assert float(output.total) == pytest.approx(expected, abs=1e-8)


def test_difference_term_keeps_its_slope_where_the_fused_image_is_a_band() -> None:
    infrared, visible = torch.rand(2, 1, 1, 64, 64, generator=torch.Generator().manual_seed(0)).unbind()
    fused = visible.clone().requires_grad_()
    output = PixelLoss(0.0, 0.0, difference_weight=1.0)(loss_inputs(fused, infrared, visible))
    (gradient,) = torch.autograd.grad(output.total, fused)
    # Half a correlation's slope: 1 / (2 sqrt(pixels) * a grey level) = 2, and that of the other, far smaller.
    assert 0.1 < float(gradient.norm()) < 4


def test_constant_features_give_a_finite_gradient() -> None:
    maps = torch.ones(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(correlations(maps, maps * 2).mean(), maps)
    assert bool(gradient.isfinite().all())


def test_setup_names_the_features_it_lacks() -> None:
    image = torch.zeros(1, 1, 16, 16)
    with pytest.raises(ValueError, match=r"no feature base_infrared, base_visible, .*decomposition_weight=0"):
        PixelLoss(decomposition_weight=2.0).setup(loss_inputs(image, image, image))


def test_is_zero_only_at_the_brighter_pixel_of_a_shared_picture() -> None:
    image = torch.rand(1, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    same = PixelLoss(ssim_weight=1.0)(loss_inputs(image, image, image))
    other = PixelLoss(ssim_weight=1.0)(loss_inputs(image + 0.1, image, image))
    assert float(same.total) == pytest.approx(0, abs=1e-9)
    assert float(other.total) > 0.05


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"gradient_weight": -1.0}, "gradient_weight is -1.0; expected 0 or more"),
        ({"intensity_weight": 0.0, "gradient_weight": 0.0}, "all weights are 0"),
    ],
)
def test_refuses_weights_that_cannot_be_meant(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelLoss(**weights)


def test_setup_refuses_crops_smaller_than_the_window() -> None:
    image = torch.zeros(1, 1, 8, 32)
    with pytest.raises(ValueError, match="SSIM needs crops of 11 px or more, got 8x32"):
        PixelLoss(ssim_weight=1.0).setup(loss_inputs(image, image, image))


class TestContract(LossContract):
    @pytest.fixture
    def node(self, loss_node: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        return loss_node("pixel", "loss.ssim_weight=1", "loss.difference_weight=1")
