"""Small random CLIPs, so that the tests need no weights."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

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


def _tiny_config(tower: str = "vit", **text: Any) -> dict[str, Any]:
    """The configuration of a CLIP of a few thousand numbers beside its token table."""
    return {
        "open_clip": {"embed_dim": 24, "vision_cfg": TOWERS[tower], "text_cfg": {**TEXT, **text}},
        "preprocess": PREPROCESS,
        "version": 0,
        "seed": 5,
    }


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., dict[str, Any]]:
    return _tiny_config


def _seen_tokens(*texts: str) -> list[int]:
    import open_clip

    return sorted({0, *open_clip.tokenize(list(texts)).flatten().tolist()})


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a tiny random CLIP that has seen a few words."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = _tiny_config()
    save_micro(build_micro(config), _seen_tokens("a visible gray image", "an infrared image"), config, folder)
    return folder
