"""Segmentation networks of torchvision with any number of channels, and the weights of their encoders.

Input is normalised by ImageNet's mean and standard deviation of each channel, whatever the source and the
encoder; infrared, the fourth channel, by their means. The first layer's weights for infrared are the mean of
those for red, green and blue, so that networks of three and four channels of one seed start alike.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models import mobilenet_v3_small, segmentation
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import FeaturePyramidNetwork

from clipfuse.downstream.published import COCO, fetch, published_state, published_url
from clipfuse.errors import UserError
from clipfuse.files import file_sha256, write_atomically
from clipfuse.ops.seeding import derived_seed
from clipfuse.ops.stored import read_weights

_MEAN, _DEVIATION = (0.485, 0.456, 0.406, 0.449), (0.229, 0.224, 0.225, 0.226)
_BATCH_NORM_MOMENTUM = 0.1


class Normalized(nn.Module):
    """A network of torchvision that takes images in [0, 1] and returns its logits at their size.

    Attributes:
        network: of torchvision; returns a mapping with "out".
        class_weights: (C,), in the loss.
    """

    class_weights: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, channels: int, classes: int) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("class_weights", torch.ones(classes))
        self.register_buffer("mean", torch.tensor(_MEAN[:channels]).reshape(1, -1, 1, 1), persistent=False)
        deviation = torch.tensor(_DEVIATION[:channels]).reshape(1, -1, 1, 1)
        self.register_buffer("deviation", deviation, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, C, H, W) of images (N, channels, H, W) in [0, 1]."""
        out: Tensor = self.network((images - self.mean) / self.deviation)["out"]
        return out


class Pyramid(nn.Module):
    """Torchvision's feature pyramid on an encoder; logits come from its finest level, at stride 4.

    After Panoptic FPN (Kirillov et al., CVPR 2019), with one convolution of 1x1 as its head: small objects
    are found at stride 4, which LRASPP does not have.

    Args:
        encoder: its named layers.
        layers: name and channels of each level, from fine to coarse.
        classes: number of classes C.
        width: channels of the pyramid.
    """

    def __init__(self, encoder: nn.Module, layers: Mapping[str, int], classes: int, width: int = 64) -> None:
        super().__init__()
        names = {layer: str(level) for level, layer in enumerate(layers)}
        self.backbone = IntermediateLayerGetter(encoder, names)
        self.pyramid = FeaturePyramidNetwork(list(layers.values()), width, norm_layer=nn.BatchNorm2d)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return logits (N, C, H, W) as "out"."""
        logits = self.head(self.pyramid(self.backbone(images))["0"])
        return {"out": interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)}


def _mobilenet_small(classes: int) -> nn.Module:
    layers = {"1": 16, "3": 24, "8": 48, "12": 576}  # strides 4, 8, 16, 32
    return Pyramid(mobilenet_v3_small(weights=None).features, layers, classes)


def _resnet(*blocks: int) -> Callable[[int], nn.Module]:
    layers = {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}
    return lambda classes: Pyramid(ResNet(BasicBlock, list(blocks)), layers, classes)


def _named(build: Callable[..., nn.Module]) -> Callable[[int], nn.Module]:
    return lambda classes: build(weights=None, weights_backbone=None, num_classes=classes)


NETWORKS: dict[str, tuple[Callable[[int], nn.Module], Any]] = {
    "fpn_resnet10": (_resnet(1, 1, 1, 1), None),
    "fpn_resnet18": (_resnet(2, 2, 2, 2), torchvision.models.ResNet18_Weights.IMAGENET1K_V1),
    "fpn_mobilenet_v3_small": (
        _mobilenet_small,
        torchvision.models.MobileNet_V3_Small_Weights.IMAGENET1K_V1,
    ),
    "lraspp_mobilenet_v3_large": (
        _named(segmentation.lraspp_mobilenet_v3_large),
        torchvision.models.MobileNet_V3_Large_Weights.IMAGENET1K_V1,
    ),
    "deeplabv3_mobilenet_v3_large": (
        _named(segmentation.deeplabv3_mobilenet_v3_large),
        torchvision.models.MobileNet_V3_Large_Weights.IMAGENET1K_V1,
    ),
}
"""By name: the builder for a number of classes, and the weights that `encoder=imagenet` fetches."""


def segmentation_network(name: str, encoder: str, classes: int, channels: int, seed: int) -> Normalized:
    """Return a new network; the same seed gives the same start for three and for four channels.

    Args:
        name: one of `NETWORKS`.
        encoder: none, imagenet, or a file.
        classes: number of classes C.
        channels: 3, or 4 for both bands.
        seed: decides the random weights; the global random state stays as it was.

    Raises:
        UserError: the encoder's weights cannot be fetched or read, or are those of another network.
    """
    build, published = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "network"))
        network: Any = build(classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = _BATCH_NORM_MOMENTUM  # torchvision's 0.01 is for long trainings
    load_encoder(network.backbone, name, encoder, published)
    extend_first_layer(network, channels)
    return Normalized(network, channels, classes).to(memory_format=torch.channels_last)


def extend_first_layer(network: nn.Module, channels: int) -> None:
    """Let the first convolution take further channels, each weighted by the mean of the first three."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            break
    else:
        raise ValueError("the network has no convolution")
    if channels == module.in_channels:
        return
    with torch.no_grad():
        mean = module.weight.mean(dim=1, keepdim=True)
        further = mean.expand(-1, channels - module.in_channels, -1, -1)
        module.weight = nn.Parameter(torch.cat([module.weight, further], dim=1))
    module.in_channels = channels


def encoder_key(encoder: str) -> str:
    """Return what names the encoder's weights in the key of kept results: a file by its content."""
    return encoder if encoder in ("none", "imagenet") else file_key(encoder, "encoder")


def weights_key(weights: str, network: str) -> str:
    """Return what names the weights of a whole network in the key of kept results.

    Raises:
        UserError: there is no such file, or torchvision publishes none of this network.
    """
    return published_url(network) if weights == COCO else file_key(weights, "weights")


def file_key(path: str, setting: str) -> str:
    """Return the digest of a file of weights.

    Raises:
        UserError: there is no such file.
    """
    if not Path(path).is_file():
        other = {"encoder": "none, imagenet or ", "weights": f"{COCO} or "}.get(setting, "")
        raise UserError(f"downstream.{setting} is '{path}'; expected {other}an existing file of weights")
    return f"sha256:{file_sha256(Path(path))}"


def load_encoder(backbone: nn.Module, name: str, encoder: str, published: Any) -> None:
    """Copy weights of three channels into a new encoder.

    Args:
        backbone: the encoder as torchvision's segmentation networks hold it.
        name: of the network, for messages.
        encoder: none, imagenet, or a file: the state dict of an encoder, of torchvision's classifier with it,
            or of a segmentation network; what belongs to no encoder is left out.
        published: torchvision's weights for `imagenet`; None: there are none.

    Raises:
        UserError: as `segmentation_network`.
    """
    if encoder == "none":
        return
    if encoder == "imagenet":
        if published is None:
            known = ", ".join(each for each, (_, weights) in NETWORKS.items() if weights is not None)
            raise UserError(
                f"downstream.encoder=imagenet: torchvision has none of {name}; it has those of {known}"
            )
        instead = "give a file that holds these weights, or set downstream.encoder=none"
        weights: Mapping[str, Any] = fetch(published, "downstream.encoder=imagenet", instead)
        place = published.url
    else:
        weights, place = _read(encoder, "encoder")[0], encoder
    heads = ("classifier.", "aux_classifier.", "fc.", "class_weights")
    names = {key: key.removeprefix("network.").removeprefix("backbone.") for key in weights}
    given = {
        name.removeprefix("features."): weights[key]
        for key, name in names.items()
        if not name.startswith(heads)
    }
    _copy(backbone, given, place, f"encoder than that of {name}")


def load_trained(
    network: nn.Module, name: str, classes: Sequence[str], path: str, last: str, outputs: int
) -> None:
    """Copy the weights of a whole trained network.

    Args:
        network: a new one of the same architecture, whose attribute `network` is torchvision's.
        name: of its architecture.
        classes: names of what it finds.
        path: what `torch.save` wrote of `weights_of`, or the state dict of torchvision's network.
        last: name of the bias of its last layer, whose length is a multiple of `outputs`.
        outputs: classes, and the output for no object, if there is one.

    Raises:
        UserError: the file cannot be read, is of another architecture, or its classes differ.
    """
    given, record = trained_weights(path)
    found, kind = record.get("classes"), record.get("network")
    if isinstance(kind, str) and kind != name:
        raise UserError(f"{path} holds a trained {kind}; expected {name}: set downstream.network={kind[:60]}")
    if isinstance(found, list) and tuple(found) != tuple(classes):
        raise UserError(
            f"the task network of {path} finds the classes {', '.join(map(str, found))}; the labels have "
            f"{', '.join(classes)}; take a network for these classes"
        )
    inner: Any = network.network
    each, bias = len(inner.state_dict()[last]) // outputs, given.get(last)
    if isinstance(bias, Tensor) and bias.dim() == 1 and len(bias) not in (each * outputs, 0):
        count = len(bias) // each - (outputs - len(classes))
        raise UserError(
            f"the task network of {path} finds {count} classes; the labels have {len(classes)}: "
            f"{', '.join(classes)}; take a network for these classes"
        )
    _copy(inner, given, path, f"network than {name}")


def load_published(network: nn.Module, name: str, outputs: Sequence[int] | None = None) -> None:
    """Copy the published weights of a whole network; see `clipfuse.downstream.published`.

    Args:
        network: torchvision's, new.
        name: of its architecture.
        outputs: of a segmentation network those of the published outputs that it has; all by default.

    Raises:
        UserError: the weights cannot be had, or are those of another network.
    """
    _copy(network, published_state(name, outputs), published_url(name), f"network than {name}")


def trained_weights(path: str) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Return the weights of torchvision's network in a file of `weights`, and all that the file holds.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    weights, record = _read(path, "weights")
    given = {key.removeprefix("network."): value for key, value in weights.items()}
    return {key: given[key] for key in given if not key.startswith(("aux_", "class_weights"))}, record


def weights_of(network: nn.Module, name: str, classes: Sequence[str]) -> dict[str, Any]:
    """Return what a file of a trained network holds, in plain types and tensors; `torch.save` writes it."""
    inner: Any = network.network
    state = {key: value.detach().cpu().clone() for key, value in inner.state_dict().items()}
    return {"network": name, "classes": list(classes), "state_dict": state}


def write_trained(save: str, seed: int, network: nn.Module, name: str, classes: Sequence[str]) -> None:
    """Write the trained network of a seed beside the name given: judge.pt becomes judge-0.pt.

    Raises:
        UserError: the file cannot be written.
    """
    content: Any = weights_of(network, name, classes)
    with write_atomically(saved_file(save, seed), "wb") as file:
        torch.save(content, file)


def saved_file(save: str, seed: int) -> Path:
    """Return the file of a trained network beside the name given: of seed 0 judge-0.pt for judge.pt."""
    path = Path(save).expanduser()
    return path.with_name(f"{path.stem}-{seed}{path.suffix}")


def _copy(module: nn.Module, given: Mapping[str, Any], where: str, what: str) -> None:
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in given.items() if isinstance(value, Tensor)}
    for key in [*wanted, *found]:
        here, there = wanted.get(key, "no such weight"), found.get(key, "absent")
        if here != there:
            raise UserError(
                f"{where} holds the weights of another {what}: '{key}' is {there} there; expected {here}"
            )
    if not all(bool(given[key].isfinite().all()) for key in wanted):
        raise UserError(f"{where} holds weights that are not finite; take another file")
    module.load_state_dict({key: given[key] for key in wanted})


def _read(path: str, setting: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the state dict of a file, and all that the file holds."""
    file_key(path, setting)
    try:
        content = read_weights(Path(path), "a network")
    except ValueError as error:
        raise UserError(f"{error}; expected a state dict that torch.save wrote") from error
    state = next((content[key] for key in ("state_dict", "model") if key in content), content)
    if not isinstance(state, Mapping) or not state or not all(isinstance(key, str) for key in state):
        raise UserError(f"{path} holds no state dict; expected one that torch.save wrote")
    return state, content
