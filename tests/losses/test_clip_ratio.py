from collections.abc import Callable
from typing import Any

import pytest
import torch

from clipfuse.clip.encoder import FrozenClip
from clipfuse.losses.clip_ratio import ClipRatioLoss
from clipfuse.losses.pixel import PixelLoss
from clipfuse.testing.loss_contract import LossContract, example_inputs


def test_equals_the_published_ratio_in_another_form(micro_clip: FrozenClip) -> None:
    """p_neg / p_pos, as released, is exp(a) of the a of which this is log(1 + exp(a))."""
    inputs = example_inputs()
    loss = ClipRatioLoss(micro_clip, guidance_weight=2.0)
    images = micro_clip.encode_image(inputs.fused, resize="squash")
    texts = micro_clip.encode_text(loss.texts)
    unit = [each / each.norm(dim=-1, keepdim=True) for each in (images, texts)]
    p = (micro_clip.logit_scale * unit[0] @ unit[1].T).softmax(dim=-1)
    ratio = p[:, 1] / p[:, 0]
    expected = 2 * torch.log(1 + ratio).mean()
    output = loss(inputs)
    # float32 embeddings, normalised in two ways, times a scale of some 14
    torch.testing.assert_close(output.total, expected, rtol=1e-5, atol=1e-5)
    assert float(output.terms["p_fused"]) == pytest.approx(float(p[:, 0].mean().detach()), abs=1e-5)


def test_texts_follow_the_images(micro_clip: FrozenClip, monkeypatch: pytest.MonkeyPatch) -> None:
    """CLIP goes where the images are, so these must be first: texts would stay behind."""
    asked: list[str] = []
    for name in ("encode_image", "encode_text"):
        plain = getattr(FrozenClip, name)

        def watch(self: FrozenClip, *words: Any, name: str = name, plain: Any = plain, **options: Any) -> Any:
            asked.append(name)
            return plain(self, *words, **options)

        monkeypatch.setattr(FrozenClip, name, watch)
    loss = ClipRatioLoss(micro_clip)
    asked.clear()
    loss(example_inputs())
    assert asked == ["encode_image", "encode_text"]


def test_adds_its_fidelity_loss(micro_clip: FrozenClip) -> None:
    inputs = example_inputs()
    alone, pixel = ClipRatioLoss(micro_clip), PixelLoss()
    both = ClipRatioLoss(micro_clip, pixel)(inputs)
    torch.testing.assert_close(both.total, alone(inputs).total + pixel(inputs).total)
    assert set(both.terms) == {"intensity", "gradient", "guidance", "p_fused"}
    lacking = ClipRatioLoss(micro_clip, PixelLoss(decomposition_weight=1.0))
    with pytest.raises(ValueError, match="no feature base_infrared"):
        lacking.setup(inputs)


def test_equal_texts_say_nothing(micro_clip: FrozenClip) -> None:
    """Of two equal texts p is 1/2 everywhere: value log 2, no gradient, nothing undefined."""
    inputs = example_inputs()
    output = ClipRatioLoss(micro_clip, positive="a clear image", negative="a clear image")(inputs)
    assert float(output.terms["guidance"]) == pytest.approx(0.693147, abs=1e-6)
    (gradient,) = torch.autograd.grad(output.total, inputs.fused)
    assert gradient.abs().max() < 1e-9  # rounding


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance_weight": 0.0}, "guidance_weight is 0.0; expected above 0"),
        ({"positive": " "}, "positive is empty; expected words"),
        ({"negative": "clear " * 100}, "clip_ratio loss: .*77"),
    ],
)
def test_refuses_what_cannot_be_meant(micro_clip: FrozenClip, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipRatioLoss(micro_clip, **options)


class TestContract(LossContract):
    @pytest.fixture
    def node(self, loss_node: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        return loss_node("clip_ratio")
