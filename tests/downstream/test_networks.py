from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from clipfuse.downstream.networks import NETWORKS, encoder_key, segmentation_network, weights_of
from clipfuse.downstream.segmentation import Segmentation
from clipfuse.errors import UserError
from clipfuse.types import LabelSet

NAME = "fpn_resnet10"
LABELS = LabelSet(("ground", "person", "car"))


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_have_the_size_of_the_image(name: str) -> None:
    network = segmentation_network(name, "none", 3, 4, seed=0).eval()
    with torch.no_grad():
        assert network(torch.rand(2, 4, 41, 70)).shape == (2, 3, 41, 70)


def test_three_and_four_channels_start_alike() -> None:
    state = torch.get_rng_state()
    three, four = (segmentation_network(NAME, "none", 3, channels, seed=5) for channels in (3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    first: Any = three.network.backbone.conv1.weight  # type: ignore[union-attr]
    assert torch.equal(four.network.backbone.conv1.weight[:, :3], first)  # type: ignore[union-attr, index]
    assert torch.equal(four.network.backbone.conv1.weight[:, 3], first.mean(1))  # type: ignore[union-attr, index]
    others = {key for key, value in three.state_dict().items() if not equal(four.state_dict()[key], value)}
    assert others == {"network.backbone.conv1.weight"}
    other = segmentation_network(NAME, "none", 3, 3, seed=6)
    assert not equal(other.network.backbone.conv1.weight, first)  # type: ignore[union-attr]


def equal(left: Any, right: Any) -> bool:
    return left.shape == right.shape and torch.equal(left, right)


def test_an_encoder_from_a_file_of_a_classifier(tmp_path: Path) -> None:
    """The published file of a classifier fits: its own head is left out."""
    classifier = torchvision.models.mobilenet_v3_large(weights=None)
    path = tmp_path / "encoder.pth"
    torch.save(classifier.state_dict(), path)
    network = segmentation_network("lraspp_mobilenet_v3_large", str(path), 3, 4, seed=0)
    copied = network.network.backbone.state_dict()  # type: ignore[union-attr, operator]
    for key, value in classifier.features.state_dict().items():
        assert torch.equal(copied[key][:, :3] if key == "0.0.weight" else copied[key], value)
    assert encoder_key(str(path)).startswith("sha256:")
    assert encoder_key("none") == "none"
    with pytest.raises(
        UserError,
        match=r"encoder\.pth holds the weights of another encoder than that of fpn_resnet10: 'conv1\.weight'",
    ):
        segmentation_network(NAME, str(path), 3, 3, seed=0)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x80\x04 an old pickle"])
def test_files_that_are_no_weights(tmp_path: Path, content: bytes) -> None:
    for name in ("encoder.pth", "encoder.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} cannot be read as weights"):
            segmentation_network(NAME, str(tmp_path / name), 3, 3, seed=0)


def test_other_mistakes_with_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"downstream\.encoder is 'imgnet'; expected none, imagenet or an"):
        segmentation_network(NAME, "imgnet", 3, 3, seed=0)
    with pytest.raises(UserError, match="torchvision has none of fpn_resnet10; it has those of fpn_res"):
        segmentation_network(NAME, "imagenet", 3, 3, seed=0)

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(
        UserError, match=r"resnet18-.*\.pth cannot be fetched \(.*no route to host.*encoder=none"
    ):
        segmentation_network("fpn_resnet18", "imagenet", 3, 3, seed=0)
    broken = torchvision.models.resnet18(weights=None).state_dict()
    broken["conv1.weight"][0] = torch.nan
    torch.save(broken, tmp_path / "nan.pth")
    with pytest.raises(UserError, match=r"nan\.pth holds weights that are not finite"):
        segmentation_network("fpn_resnet18", str(tmp_path / "nan.pth"), 3, 3, seed=0)


def test_a_trained_network_from_a_file(tmp_path: Path) -> None:
    network = segmentation_network(NAME, "none", 3, 3, seed=1).eval()
    path, bare = tmp_path / "trained.pth", tmp_path / "bare.pth"
    torch.save(weights_of(network, NAME, LABELS.names), path)
    torch.save(network.network.state_dict(), bare)
    images = torch.rand(1, 3, 32, 32)
    for file in (path, bare):
        again = Segmentation(network=NAME, weights=str(file)).trained(LABELS, 3)
        assert isinstance(again, nn.Module)
        with torch.no_grad():
            assert torch.equal(again.eval()(images), network(images))
    other = LabelSet(("ground", "person", "bike"))
    with pytest.raises(
        UserError, match=r"trained\.pth finds the classes ground, person, car; the labels have gr"
    ):
        Segmentation(network=NAME, weights=str(path)).trained(other, 3)
    with pytest.raises(UserError, match=r"bare\.pth finds 3 classes; the labels have 2: ground, person"):
        Segmentation(network=NAME, weights=str(bare)).trained(LabelSet(other.names[:2]), 3)
    with pytest.raises(
        UserError, match=r"another network than fpn_resnet18: 'backbone\.layer1\.1\.conv1\.weight'"
    ):
        Segmentation(network="fpn_resnet18", weights=str(bare)).trained(LABELS, 3)
    with pytest.raises(UserError, match=r"downstream\.weights is 'gone'; expected coco or an existing file"):
        Segmentation(network=NAME, weights="gone").settings()
    assert Segmentation(network=NAME).trained(LABELS, 3) is None
