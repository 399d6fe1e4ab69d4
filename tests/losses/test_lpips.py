from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clipfuse.losses.lpips import LpipsLoss
from clipfuse.metrics import lpips
from clipfuse.ops.vgg import _layers
from clipfuse.testing.loss_contract import LossContract, build_loss, example_inputs


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        state = _layers("alexnet").state_dict()
    torch.save({f"features.{name}": value for name, value in state.items()}, path)
    return str(path)


class TestContract(LossContract):
    @pytest.fixture
    def node(self, loss_node: Callable[..., dict[str, Any]], weights: str) -> dict[str, Any]:
        return loss_node("lpips", f"loss.weights={weights}")


class TestInASum(LossContract):
    @pytest.fixture
    def node(self, weights: str) -> dict[str, Any]:
        of = {
            "pixel": {"_target_": "clipfuse.losses.pixel.PixelLoss"},
            "lpips": {"_target_": "clipfuse.losses.lpips.LpipsLoss", "weights": weights},
        }
        target = "clipfuse.losses.weighted_sum.weighted_sum"
        return {"_target_": target, "parts": {"pixel": 1.0, "lpips": 0.5}, "of": of}


def test_is_the_metric_of_images_that_need_no_rounding(weights: str) -> None:
    inputs = example_inputs()
    planes = [(255 * each).round() / 255 for each in (inputs.fused.detach(), inputs.infrared, inputs.visible)]
    expected = lpips(*planes, weights=weights).mean().float()
    found = LpipsLoss(weights)(*planes).total
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    for share, name in ((1.0, "visible"), (0.0, "infrared")):
        output = LpipsLoss(weights, visible_share=share)(*planes)
        assert output.total == output.terms[name]


def test_errors_name_what_is_wrong(weights: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lpips loss: visible_share is 2; expected from 0 to 1"):
        LpipsLoss(weights, visible_share=2)
    with pytest.raises(ValueError, match=r"lpips loss: .* does not hold the features of torchvision's vgg16"):
        LpipsLoss(weights, "vgg16")
    with pytest.raises(ValueError, match="lpips loss: no file of vgg16 or alexnet's weights"):
        LpipsLoss(str(tmp_path / "none"))
    loss = build_loss({"_target_": "clipfuse.losses.lpips.LpipsLoss", "weights": weights})
    with pytest.raises(ValueError, match=r"needs crops of 32 px or more, got 24x24; raise loader\.crop_size"):
        loss.setup(example_inputs(side=24))
