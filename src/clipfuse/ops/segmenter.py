"""A small network that finds the class of each pixel: a pure function of its weights and of one image."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipfuse.ops.stored import read_weights

KIND = "segmenter-1"  # the architecture below, in the files of its weights


class Segmenter(nn.Module):
    """An encoder and a decoder of 3x3 convolutions: three halvings, one dilated layer, skips, 0.14 M weights.

    Own design, of torchvision's `Conv2dNormActivation`. What a loss with a lower level needs rules out the
    networks of torchvision: their heads fix batch norm, whose running statistics make an evaluation depend on
    earlier ones and whose means join the images of a batch; group norm does neither. Enlarging repeats
    pixels, as the gradient of bilinear enlarging is not deterministic on CUDA. With group norm in it, LRASPP
    on MobileNetV3-Small has 1.1 M weights and takes twice the time.

    Args:
        classes: names of the classes, or their number, 2 or more; more than the data have do no harm.
        width: channels of the first stage, a multiple of 4; the others have two and four times as many.
        seed: of the first weights; the global random state is left as it was.

    Attributes:
        names: names of the classes; empty where their number alone was given.

    Raises:
        ValueError: fewer than two classes, a name that appears twice, or another width.
    """

    def __init__(self, classes: int | Sequence[str] = 16, width: int = 16, seed: int = 0) -> None:
        from torchvision.ops import Conv2dNormActivation

        super().__init__()
        self.names = () if isinstance(classes, int) else tuple(map(str, classes))
        self.classes = classes if isinstance(classes, int) else len(self.names)
        self.width = width
        if self.classes < 2 or len(set(self.names)) < len(self.names):
            found = ", ".join(self.names) or self.classes
            raise ValueError(f"segmenter: classes is {found}; expected two or more, no name twice")
        if width < 4 or width % 4:
            raise ValueError(f"segmenter: width is {width}; expected a multiple of 4")

        def layer(before: int, after: int, stride: int = 1, dilation: int = 1) -> nn.Module:
            return Conv2dNormActivation(
                before, after, stride=stride, dilation=dilation, norm_layer=lambda each: nn.GroupNorm(4, each)
            )

        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            one, two, four = width, 2 * width, 4 * width
            self.fine = nn.Sequential(layer(3, one, 2), layer(one, one))
            self.middle = nn.Sequential(layer(one, two, 2), layer(two, two))
            self.coarse = nn.Sequential(layer(two, four, 2), layer(four, four), layer(four, four, dilation=2))
            self.up_middle = layer(four + two, two)
            self.up_fine = layer(two + one, one)
            self.head = nn.Conv2d(one, self.classes, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits.

        Args:
            images: RGB, (N, 3, H, W) float in [0, 1].

        Returns:
            (N, C, H, W).
        """
        fine = self.fine(4 * images - 2)
        middle = self.middle(fine)
        found = self.up_middle(torch.cat([middle, _enlarged(self.coarse(middle), middle)], 1))
        found = self.up_fine(torch.cat([fine, _enlarged(found, fine)], 1))
        logits: Tensor = self.head(_enlarged(found, images))
        return logits


def _enlarged(planes: Tensor, like: Tensor) -> Tensor:
    return nn.functional.interpolate(planes, size=like.shape[-2:], mode="nearest")


def weights_of(network: Segmenter) -> dict[str, Any]:
    """Return what a file of weights holds, in plain types and tensors; `torch.save` writes it."""
    state = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    classes = list(network.names) or network.classes
    return {"network": KIND, "classes": classes, "width": network.width, "state_dict": state}


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Copy weights from a file into a network.

    Args:
        network: a `Segmenter`, or another network, whose attribute `network` may be what the file is of.
        path: a file of `weights_of`, here or in `clipfuse.downstream.networks`, a bare `state_dict`, or the
            checkpoint of a training with `loss=task`.

    Raises:
        ValueError: the file cannot be read, or is one of other classes or of another architecture.
    """
    path = Path(path)
    content = read_weights(path, "the network")
    state, names = content.get("state_dict", content), content.get("classes")
    if "clipfuse" in content:
        state, names = _from_checkpoint(content, path)
    mine = getattr(network, "names", ())
    if mine and isinstance(names, list) and tuple(names) != tuple(mine):
        raise ValueError(
            f"{path} finds the classes {', '.join(map(str, names))}; the data have {', '.join(mine)}: take "
            "weights that were trained on labels of this kind"
        )
    inner = getattr(network, "network", None)
    if isinstance(inner, nn.Module) and not any(str(name).startswith("network.") for name in state):
        network = inner
    wanted = network.state_dict()
    shapes = {name: tuple(value.shape) for name, value in wanted.items()}
    found = {name: tuple(value.shape) for name, value in state.items() if isinstance(value, Tensor)}
    last = list(shapes)[-1]
    if found.keys() == shapes.keys() and found[last] != shapes[last]:
        raise ValueError(f"{path} is of {found[last][0]} classes; expected {shapes[last][0]}")
    if found != shapes:
        odd = next(name for name in {**shapes, **found} if shapes.get(name) != found.get(name))
        raise ValueError(
            f"{path} is of another architecture than {type(network).__name__}: {odd} is "
            f"{found.get(odd, 'missing')}; expected {shapes.get(odd, 'no such weight')}"
        )
    network.load_state_dict(state)


def _from_checkpoint(content: Mapping[str, Any], path: Path) -> tuple[dict[str, Tensor], object]:
    """Return the weights of the network of `loss=task`, which may be a part of a sum, and its classes."""
    inner = re.compile(r"(loss\.(?:.*\.)?)network\.(.*)")
    matches = [(inner.fullmatch(name), value) for name, value in content["state_dict"].items()]
    state = {match[2]: value for match, value in matches if match}
    if not state:
        raise ValueError(f"{path} is the checkpoint of a training without a task network; take loss=task")
    node: Any = content["clipfuse"].get("config", {})
    place = next(match[1] for match, _ in matches if match)
    for key in (*place.strip(".").split("."), "network", "classes"):
        node = node.get(key) if isinstance(node, Mapping) else None
    return state, node
