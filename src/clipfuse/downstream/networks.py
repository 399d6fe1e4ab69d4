"""Segmentation networks of torchvision with any number of channels, and the weights of their encoders.

Input is normalised by ImageNet's mean and standard deviation of each channel, whatever the source and the
encoder; infrared, the fourth channel, by their means. The first layer's weights for infrared are the mean of
those for red, green and blue, so that networks of three and four channels of one seed start alike.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_small, segmentation
from torchvision.models._utils import IntermediateLayerGetter

from clipfuse.errors import UserError, reason
from clipfuse.files import file_sha256
from clipfuse.networks.weights import SUFFIX, read_archive
from clipfuse.ops.seeding import derived_seed

_MEAN, _DEVIATION = (0.485, 0.456, 0.406, 0.449), (0.229, 0.224, 0.225, 0.226)
_BATCH_NORM_MOMENTUM = 0.1
_REMEDY = "expected the state dict of the encoder of downstream.network={network}, written by torch.save"


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


def _lraspp_small(classes: int) -> nn.Module:
    """Compose what `torchvision.models.segmentation.lraspp_mobilenet_v3_large` is, on the small encoder."""
    features = mobilenet_v3_small(weights=None, dilated=True).features
    low, high = 2, len(features) - 1  # strides 8 and 16
    channels = [features[each].out_channels for each in (low, high)]
    layers = {str(low): "low", str(high): "high"}
    return segmentation.LRASPP(IntermediateLayerGetter(features, layers), *channels, classes)


def _named(build: Callable[..., nn.Module]) -> Callable[[int], nn.Module]:
    return lambda classes: build(weights=None, weights_backbone=None, num_classes=classes)


NETWORKS: dict[str, tuple[Callable[[int], nn.Module], Any]] = {
    "lraspp_mobilenet_v3_small": (_lraspp_small, torchvision.models.MobileNet_V3_Small_Weights.IMAGENET1K_V1),
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
    return encoder if encoder in ("none", "imagenet") else f"sha256:{file_sha256(_file(encoder))}"


def load_encoder(backbone: nn.Module, name: str, encoder: str, published: Any) -> None:
    """Copy weights of three channels into a new encoder.

    Args:
        backbone: the encoder as torchvision's segmentation networks hold it, layers by number.
        name: of the network, for messages.
        encoder: none, imagenet, or a file; a classifier's weights in it are left out.
        published: torchvision's weights for `imagenet`.

    Raises:
        UserError: as `segmentation_network`.
    """
    if encoder == "none":
        return
    if encoder == "imagenet":
        try:
            weights = published.get_state_dict(progress=False, check_hash=True)
        except Exception as error:  # the network, the cache, a wrong checksum: all of it is the hub's
            raise UserError(
                f"downstream.encoder=imagenet: {published.url} cannot be fetched ({reason(error)}); give a "
                "file that holds these weights, or set downstream.encoder=none"
            ) from error
        place = published.url
    else:
        weights, place = _read(encoder, name), encoder
    wanted = backbone.state_dict()
    given = {_key(key): value for key, value in weights.items() if not key.startswith("classifier.")}
    shapes = {key: tuple(value.shape) for key, value in wanted.items()}
    found = {key: tuple(value.shape) for key, value in given.items() if isinstance(value, Tensor)}
    odd = [key for key in shapes if found.get(key) != shapes[key]] + [
        key for key in found if key not in shapes
    ]
    if odd:
        key = odd[0]
        raise UserError(
            f"{place} holds the weights of another encoder: '{key}' is {found.get(key, 'absent')} there and "
            f"{shapes.get(key, 'absent')} in {name}; {_REMEDY.format(network=name)}"
        )
    if not all(bool(value.isfinite().all()) for value in given.values()):
        raise UserError(f"{place} holds weights that are not finite; take another file")
    backbone.load_state_dict(given)


def _file(encoder: str) -> Path:
    path = Path(encoder)
    if not path.is_file():
        raise UserError(f"downstream.encoder is '{encoder}'; expected none, imagenet or an existing file")
    return path


def _read(encoder: str, name: str) -> Mapping[str, Any]:
    path = _file(encoder)
    try:
        if path.suffix == SUFFIX:
            from safetensors.torch import load

            content: Any = load(path.read_bytes())
        else:
            content = read_archive(path)
        if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
            raise ValueError("no state dict")
    except Exception as error:  # a crafted file can raise anything in its parser
        raise UserError(
            f"{path} cannot be read as weights ({error}); {_REMEDY.format(network=name)}"
        ) from error
    return content


def _key(key: str) -> str:
    """Return a name of a classifier's or of a segmentation network's state dict as the encoder has it."""
    for prefix in ("network.backbone.", "backbone.", "features."):
        key = key.removeprefix(prefix)
    return key
