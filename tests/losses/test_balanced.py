from collections.abc import Callable
from typing import Any

import pytest
import torch

from clipfuse.losses.balanced import BalancedLoss
from clipfuse.metrics import FusionMetrics
from clipfuse.ops.pyramid import energy_fusion
from clipfuse.testing.loss_contract import LossContract, example_inputs

METRICS = {
    "information": "kept-information",
    "structure": "kept-structure",
    "detail": "local-detail",
    "artifacts": "clean-detail",
}


class TestContract(LossContract):
    @pytest.fixture
    def node(self, loss_node: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        return loss_node("balanced")


def textures(*shape: int) -> torch.Tensor:
    """Blobs on whole grey levels, as files have them."""
    rough = torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))
    return (torch.nn.functional.avg_pool2d(rough, 3, 1, 1) * 255).round() / 255


def test_it_misses_what_the_metrics_do_not_give() -> None:
    infrared, visible = textures(2, 1, 64, 48), textures(2, 1, 64, 49)[..., :48]
    fused = ((infrared + visible) / 2 * 255).round() / 255
    found = BalancedLoss()(fused, infrared, visible)
    # The metrics, in float64; 1e-5: the loss computes in float32.
    metrics = FusionMetrics("strict", tuple(METRICS.values()))
    scores = [
        metrics.score_all({"": fused[[k]]}, infrared[[k]], visible[[k]], None)[""] for k in range(len(fused))
    ]
    for term, metric in METRICS.items():
        kept = sum(score[metric] for score in scores) / len(scores)
        assert float(found.terms[term]) == pytest.approx(1 - kept, abs=1e-5)
    parts = torch.stack([found.terms[term] for term in METRICS]).mean() + found.terms["brightness"]
    torch.testing.assert_close(found.total, parts)


def test_a_better_fusion_has_less_of_it_and_is_found_by_descent() -> None:
    infrared, visible = textures(1, 1, 64, 64), textures(1, 1, 64, 65)[..., :64]
    average = (infrared + visible) / 2
    by_energy = energy_fusion(infrared, visible).clamp(0, 1)
    loss = BalancedLoss()
    assert float(loss(by_energy, infrared, visible).total) < float(loss(average, infrared, visible).total)
    fused = average.clone().requires_grad_()
    optimizer = torch.optim.Adam([fused], 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss(fused, infrared, visible).total.backward()
        optimizer.step()
    found = loss(fused.detach(), infrared, visible)
    assert float(found.total) < 0.9 * float(loss(by_energy, infrared, visible).total)


def test_brightness() -> None:
    dark, bright = torch.full((1, 1, 64, 64), 0.2), torch.full((1, 1, 64, 64), 0.6)
    loss = BalancedLoss()
    # By day the visible band's brightness is wanted, at night the average. Weights end at 0.01 and 0.99, and
    # what is as warm as the mean is hot by 0.0005.
    assert float(loss(bright, dark, bright).terms["brightness"]) == pytest.approx(0, abs=0.02)
    assert float(loss(dark, dark, bright).terms["brightness"]) == pytest.approx(0.8, abs=0.02)
    assert float(loss((dark + bright) / 2, bright, dark).terms["brightness"]) == pytest.approx(0, abs=1e-3)
    assert "brightness" not in BalancedLoss(0.0)(bright, dark, bright).terms


def test_flat_bands_keep_everything_and_give_no_gradient() -> None:
    fused = torch.full((2, 1, 40, 40), 0.5, requires_grad=True)
    found = BalancedLoss(0.0)(fused, torch.full_like(fused, 0.2), torch.full_like(fused, 0.4))
    found.total.backward()
    assert float(found.total.detach()) == 0
    assert fused.grad is not None
    assert float(fused.grad.abs().max()) == 0


def test_refusals() -> None:
    with pytest.raises(ValueError, match="brightness_weight"):
        BalancedLoss(-1.0)
    with pytest.raises(ValueError, match=r"crops of 24x24; its windows need 25 px .*loader\.crop_size"):
        BalancedLoss().setup(example_inputs(2, 24))
