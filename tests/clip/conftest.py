"""Small random CLIPs, so that most tests need no weights; and one real architecture."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from clipfuse.clip.encoder import FrozenClip
from clipfuse.clip.loading import Source
from clipfuse.clip.micro_files import build_micro, save_micro

PREPROCESS = {
    "size": 32,
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
TOWERS: Mapping[str, Mapping[str, Any]] = {
    "vit": {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 4},
    "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
}
TINY_TEXTS = ("a visible gray image", "an infrared image")


def _tiny_config(tower: str = "vit", **text: Any) -> dict[str, Any]:
    return {
        "open_clip": {"embed_dim": 24, "vision_cfg": TOWERS[tower], "text_cfg": {**TEXT, **text}},
        "preprocess": PREPROCESS,
        "version": 0,
        "seed": 5,
    }


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., dict[str, Any]]:
    """The configuration of a CLIP of a few thousand numbers beside its token table."""
    return _tiny_config


@pytest.fixture(scope="session")
def tiny_clip() -> Callable[..., FrozenClip]:
    """A random CLIP in memory; arguments are fields of its text tower."""

    def make(tower: str = "vit", custom_text: bool = False, **text: Any) -> FrozenClip:
        config = _tiny_config(tower, **text)
        torch.manual_seed(0)
        model = build_micro({**config, "open_clip": {**config["open_clip"], "custom_text": custom_text}})
        with torch.no_grad():  # so that neither the token nor the order is lost in what is random
            for name, value in model.named_parameters():
                if name.endswith(("token_embedding.weight", "positional_embedding")) and "visual" not in name:
                    value.mul_(20)
                if name.endswith("bn3.weight"):
                    value.fill_(0.5)
        identity = {"model": "tiny", "pretrained": None, "weights_sha256": ""}
        return FrozenClip(Source(model, PREPROCESS, None, identity))

    return make


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a tiny random CLIP that has seen a few words."""
    import open_clip

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    seen = sorted({0, *open_clip.tokenize(list(TINY_TEXTS)).flatten().tolist()})
    save_micro(build_micro(_tiny_config()), seen, _tiny_config(), folder)
    return folder


@dataclass(frozen=True)
class Reference:
    """A random ViT-B-32-quickgelu as open_clip made it, and its weights as a file."""

    model: Any
    file: Path
    name: str = "ViT-B-32-quickgelu"


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32-quickgelu").eval().requires_grad_(False)
    file = tmp_path_factory.mktemp("vit") / "vit.pt"
    torch.save(model.state_dict(), file)
    return Reference(model, file)


@pytest.fixture(scope="session")
def vit_clip(vit: Reference) -> FrozenClip:
    return FrozenClip.load(vit.name, pretrained=str(vit.file))
