"""A tiny random CLIP in the files of a micro one, so that no test needs weights."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from clipfuse.cli.config import conf_dir
from clipfuse.clip.descriptions import WORDS
from clipfuse.clip.encoder import FrozenClip
from clipfuse.clip.micro_files import build_micro, save_micro
from clipfuse.losses.autofuse import GENERAL
from clipfuse.losses.ldfusion import RELEASES

TOWERS: Mapping[str, Mapping[str, Any]] = {
    "vit": {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 4},
    "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
}


@pytest.fixture(scope="session")
def micro_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder per kind of image tower; the texts of the published losses are known words."""
    import open_clip

    texts = [
        str(text)
        for release in RELEASES.values()
        for text in (release.text, release.visible_text, release.infrared_text)
    ]
    prompts = OmegaConf.load(conf_dir() / "loss/promptfusion.yaml").pairs.values()
    texts += [text for pair in prompts for text in (pair.positive, pair.negative)]
    ratio = OmegaConf.load(conf_dir() / "loss/clip_ratio.yaml")
    texts += [ratio.positive, ratio.negative]
    texts += [*GENERAL[True], *(word for pair in WORDS.values() for word in pair)]
    folders = {}
    for name, tower in TOWERS.items():
        text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
        config = {
            "open_clip": {"embed_dim": 24, "vision_cfg": tower, "text_cfg": text},
            "preprocess": {"size": 32, "mean": [0.45] * 3, "std": [0.25] * 3, "interpolation": "bicubic"},
            "version": 0,
            "seed": 5,
        }
        torch.manual_seed(0)
        model = build_micro(config)
        with torch.no_grad():
            for key, value in model.named_parameters():
                if key.endswith(("token_embedding.weight", "positional_embedding")):
                    value.mul_(20)  # so that texts differ
                if key.endswith("bn3.weight"):
                    value.fill_(0.5)
        folders[name] = tmp_path_factory.mktemp(name)
        save_micro(model, sorted({0, *open_clip.tokenize(texts).flatten().tolist()}), config, folders[name])
    return folders


@pytest.fixture(scope="session")
def loss_node(micro_folders: dict[str, Path]) -> Callable[..., dict[str, Any]]:
    """Compose `loss=NAME` of `conf/`, with further overrides and the tiny CLIP."""

    composed: dict[tuple[str, ...], dict[str, Any]] = {}  # each takes a tenth of a second or more

    def compose_node(name: str, *overrides: str) -> dict[str, Any]:
        if (name, *overrides) in composed:
            return copy.deepcopy(composed[name, *overrides])
        words = [f"loss={name}", f"+clip.pretrained={micro_folders['vit']}", *overrides]
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose("train", words)
        node = OmegaConf.to_container(config.loss, resolve=True)
        assert isinstance(node, dict)
        composed[name, *overrides] = {str(key): value for key, value in node.items()}
        return copy.deepcopy(composed[name, *overrides])

    return compose_node


@pytest.fixture(scope="session")
def micro_clip(micro_folders: dict[str, Path]) -> FrozenClip:
    return FrozenClip.load("micro", str(micro_folders["vit"]))


@pytest.fixture(scope="session")
def resnet_clip(micro_folders: dict[str, Path]) -> FrozenClip:
    return FrozenClip.load("micro", str(micro_folders["resnet"]))
