import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from clipfuse.ops.vgg import FrozenVgg


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights for VGG19's features, named as in torchvision's file."""
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(0)
    layers = make_layers(cfgs["E"][:13])
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save({f"features.{name}": value for name, value in layers.state_dict().items()}, path)
    return path


def test_features_are_those_of_torchvision_s_layers(weights: Path) -> None:
    from torchvision.models.vgg import cfgs, make_layers

    layers = make_layers(cfgs["E"][:13])
    layers.load_state_dict(
        {name.removeprefix("features."): value for name, value in torch.load(weights).items()}
    )
    image = torch.rand(2, 1, 24, 40)
    found = FrozenVgg(weights)(image, ["conv4_2", "conv2_1", "conv3_1"])
    assert list(found) == ["conv4_2", "conv2_1", "conv3_1"]
    hidden = image.repeat(1, 3, 1, 1)
    with torch.no_grad():
        for index, layer in enumerate(layers[:23]):
            hidden = layer(hidden)
            # The published features named after convolutions are those after the activation.
            for name, place in {"conv2_1": 6, "conv3_1": 11, "conv4_2": 22}.items():
                if index == place:
                    torch.testing.assert_close(found[name], hidden)


def test_gradients_reach_images_alone_and_copies_share(weights: Path) -> None:
    vgg = FrozenVgg(weights)
    image = torch.rand(1, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    vgg(image, ["conv2_1"])["conv2_1"].sum().backward()
    assert image.grad is not None
    assert all(parameter.grad is None for parameter in vgg.layers.parameters())
    assert deepcopy(vgg) is vgg


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (None, "no file of vgg19's weights at"),
        (os.mkfifo, "no file of vgg19's weights at"),
        (lambda path: path.write_bytes(b"nothing"), "cannot be read as weights of vgg19"),
        (lambda path: torch.save({"features.0.weight": torch.zeros(1)}, path), "does not hold the features"),
        (lambda path: torch.save([1], path), "does not hold the features"),
    ],
)
def test_a_wrong_file(write: Callable[[Path], object] | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    if write is not None:
        write(path)
    with pytest.raises(ValueError, match=message):
        FrozenVgg(path)


def test_offline_says_what_to_download(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import VGG19_Weights

    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(VGG19_Weights, "get_state_dict", unreachable)
    with pytest.raises(ValueError, match=r"cannot be downloaded \(.*no route.*put https://.*vgg19.* into"):
        FrozenVgg()
