"""A loss runs where its inputs lie: only images move a CLIP there, so they must come before its texts."""

from collections.abc import Callable
from typing import Any

import pytest

from clipfuse.clip.encoder import FrozenClip
from clipfuse.testing.loss_contract import build_loss, example_inputs

OVERRIDES = {
    "autofuse": ["loss.patch_side=[0.4,0.8]"],
    "clip_ratio": [],
    "ldfusion": [],
    "promptfusion": ["loss.fidelity.decomposition_weight=0"],
    "promptfusion_views": [
        *("loss.fidelity.decomposition_weight=0", "loss.objects=[person]", "loss.class_names=[sky,person]"),
    ],
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_texts_are_embedded_after_the_first_image(
    name: str, loss_node: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = build_loss(loss_node(name, *OVERRIDES[name]))
    loss.setup(example_inputs())
    calls = list[str]()

    def recorded(method: str) -> Callable[..., Any]:
        original = getattr(FrozenClip, method)

        def call(*arguments: object, **named: object) -> Any:
            calls.append(method)
            return original(*arguments, **named)

        return call

    for method in ("encode_text", "encode_image", "encode_with_features", "encode_embeddings"):
        monkeypatch.setattr(FrozenClip, method, recorded(method))
    loss(example_inputs())
    assert calls[0] != "encode_text"  # images, and embeddings of learned prompts, move it
