"""`clipfuse new-loss NAME`: a loss of your own to start from, with its configuration and its test."""

import argparse
import keyword
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from string import Template

from clipfuse.cli.options import conf_dir
from clipfuse.errors import UserError

_LOSS = '''\
"""$title: write here in one line which fused image this loss prefers."""

import torch
from torch import Tensor

from clipfuse.losses.base import FusionLoss
from clipfuse.types import LossInputs, LossOutput


class $cls(FusionLoss):
    """weight x mean|F - max(I, V)| + contrast_weight x mean|s(F) - max(s(I), s(V))|.

    F, I, V are the fused, infrared and visible luma in [0, 1], s the standard deviation of each image.
    Replace it by your own idea; `clipfuse.types.LossInputs` lists what a loss receives. One that needs labels
    names them, as in needs = frozenset({"classes"}).

    Args:
        weight: weight of the first term, 0 or more.
        contrast_weight: weight of the second term, 0 or more.

    Raises:
        ValueError: a weight is negative.
    """

    def __init__(self, weight: float = 1.0, contrast_weight: float = 0.1) -> None:
        super().__init__()
        if weight < 0 or contrast_weight < 0:
            raise ValueError(f"$name: weights are {weight} and {contrast_weight}; expected 0 or more")
        self.weight = weight
        self.contrast_weight = contrast_weight

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Return the scalar to minimise, and detached terms for the log."""
        fused, infrared, visible = inputs.fused, inputs.infrared, inputs.visible
        brightness = (fused - infrared.maximum(visible)).abs().mean()
        stronger = _contrast(infrared).maximum(_contrast(visible))
        contrast = (_contrast(fused) - stronger).abs().mean()
        total = self.weight * brightness + self.contrast_weight * contrast
        return LossOutput(total, {"brightness": brightness.detach(), "contrast": contrast.detach()})


def _contrast(images: Tensor) -> Tensor:
    """Return the standard deviation of each of (N, 1, H, W) images, (N,)."""
    # A root has no finite slope at 0, which is the variance of a blank image.
    return torch.sqrt(images.flatten(1).var(dim=1, correction=0) + 1e-6)
'''
_CONFIG = """\
# clipfuse train 'hydra.searchpath=[file://conf]' loss=$name
_target_: $name.$cls
weight: 1.0                 # weight of the distance to the brighter pixel
contrast_weight: 0.1        # weight of the distance to the stronger contrast
"""
_TEST = '''\
"""Tests of the contract of losses and of this loss. Run: python -m pytest test_$name.py."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from clipfuse.testing.loss_contract import LossContract, example_inputs
from clipfuse.testing.ranks import Ranks

from $name import $cls

CONFIG = Path(__file__).parent / "conf" / "loss" / "$name.yaml"


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    """Two processes, as in a training on two GPUs."""
    with Ranks(2) as two:
        yield two


class TestContract(LossContract):
    @pytest.fixture
    def node(self) -> dict[str, Any]:
        return dict(yaml.safe_load(CONFIG.read_text()))


def test_brightness_is_zero_at_the_brighter_pixel_alone() -> None:
    inputs = example_inputs()
    best = replace(inputs, fused=inputs.infrared.maximum(inputs.visible))
    assert float($cls()(best).terms["brightness"]) == 0
    assert float($cls()(inputs).terms["brightness"]) > 0.01


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 0 or more"):
        $cls(weight=-1.0)
'''


def main(arguments: Sequence[str]) -> None:
    """Write `NAME.py`, `conf/loss/NAME.yaml` and `test_NAME.py` into the current folder.

    Raises:
        UserError: the name cannot be used, or a file is there already; nothing is written then.
    """
    parser = argparse.ArgumentParser(
        prog="clipfuse new-loss",
        description="Write a loss that works, its configuration and its test into the current folder.",
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="of the file and in log keys, such as my_loss")
    name = parser.parse_args(arguments).name
    _check_name(name)
    files = {
        Path(f"{name}.py"): _LOSS,
        Path("conf") / "loss" / f"{name}.yaml": _CONFIG,
        Path(f"test_{name}.py"): _TEST,
    }
    if existing := [str(path) for path in files if path.exists()]:
        raise UserError(f"{existing[0]} is there already; choose another name, or remove it")
    title = name.replace("_", " ").capitalize()
    cls = "".join(word.capitalize() for word in name.split("_"))
    words = {"name": name, "title": title, "cls": cls if cls.endswith("Loss") else f"{cls}Loss"}

    from clipfuse.files import write_atomically

    for path, text in files.items():
        with write_atomically(path, overwrite=False) as file:
            file.write(Template(text).substitute(words))
    print(f"written: {', '.join(map(str, files))}")
    print(f"test:    python -m pytest {list(files)[-1]}")
    print(f"train:   clipfuse train 'hydra.searchpath=[file://conf]' loss={name}")
    print(f"or:      clipfuse train loss=custom loss._target_={name}.{words['cls']} +loss.weight=2")


def _check_name(name: str) -> None:
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name) or name != name.lower():
        raise UserError(f"'{name}' cannot name a loss; expected small letters, digits and _, as in my_loss")
    if (conf_dir() / "loss" / f"{name}.yaml").is_file():
        raise UserError(f"'{name}' is a loss of ClipFuse; choose another name, such as my_{name}")
    if find_spec(name) and not Path(f"{name}.py").exists():
        raise UserError(f"'{name}' is an installed module, which would be found first; choose my_{name}, say")
