"""Features of a frozen VGG19, up to the last layer that the fusion literature uses."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipfuse.ops.stored import read_weights

# The activation after the convolution of that name: the index of its ReLU in torchvision's `features`.
LAYERS = {"conv1_1": 1, "conv2_1": 6, "conv3_1": 11, "conv4_1": 20, "conv4_2": 22}


class FrozenVgg:
    """VGG19 (Simonyan and Zisserman, arXiv 1409.1556) as a fixed function of images.

    No `nn.Module`, so that a loss that holds it has nothing of it in its parameters, checkpoints or copies.
    Its weights are moved to the device of the images. As in LDFusion's release, images are not normalised.

    Args:
        weights: a file of torchvision's `vgg19`, whole or its features alone; None takes torchvision's own,
            which is downloaded (550 MB) at its first use.

    Raises:
        ValueError: the weights cannot be read or downloaded, or are not those of a VGG19.
    """

    def __init__(self, weights: str | Path | None = None) -> None:
        from torchvision.models.vgg import cfgs, make_layers

        self.layers = make_layers(cfgs["E"][:13], batch_norm=False).requires_grad_(False).eval()
        state = _download() if weights is None else read_weights(Path(weights), "vgg19")
        wanted = {f"features.{name}": name for name in self.layers.state_dict()}
        try:
            self.layers.load_state_dict({name: state[key] for key, name in wanted.items()})
        except (KeyError, RuntimeError, TypeError, AttributeError) as error:
            raise ValueError(f"{weights} does not hold the features of torchvision's vgg19") from error

    def __call__(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Return features; no layer after the last of `layers` is computed.

        Args:
            images: (N, 1 or 3, H, W) float in [0, 1], H and W 8 or more; gray is repeated.
            layers: one or more names from `LAYERS`.

        Returns:
            (N, C, h, w) float32 by name, in the order of `layers`.
        """
        if next(self.layers.parameters()).device != images.device:
            self.layers.to(images.device)
        wanted = {LAYERS[name] for name in layers}
        found: dict[int, Tensor] = {}
        hidden = images.float().expand(-1, 3, -1, -1)
        for index in range(max(wanted) + 1):
            hidden = self.layers[index](hidden)
            if index in wanted:
                found[index] = hidden
        return {name: found[LAYERS[name]] for name in layers}

    def __deepcopy__(self, memo: Mapping[int, Any]) -> "FrozenVgg":
        return self


def _download() -> Mapping[str, Tensor]:
    from torchvision.models import VGG19_Weights

    weights = VGG19_Weights.IMAGENET1K_V1
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:  # URLError is an OSError; RuntimeError: a broken download
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ValueError(
            f"the weights of vgg19 cannot be downloaded ({error}); put {weights.url} into {folder}"
        ) from error
