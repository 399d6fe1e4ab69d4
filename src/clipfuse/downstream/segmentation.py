"""Segmentation: which class does each pixel belong to?"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from clipfuse.downstream.base import Example, Judgement, Task
from clipfuse.downstream.confusion import class_iou, confusion_matrix, mean, mfnet_iou, pooled
from clipfuse.downstream.networks import (
    NETWORKS,
    encoder_key,
    load_published,
    load_trained,
    segmentation_network,
    weights_key,
    write_trained,
)
from clipfuse.downstream.published import COCO, output_names, published_outputs
from clipfuse.errors import UserError
from clipfuse.ops.drawing import paint_classes
from clipfuse.types import IGNORED, LabelSet

CLASS_WEIGHTS = ("log", "equal")
_LOG_OFFSET = 1.1


class Segmentation(Task):
    """A small segmentation network of torchvision, trained by cross entropy on the labelled pixels.

    Training is that of `clipfuse.downstream.learning`, the same for every source of images: AdamW, warm-up
    and half a cosine, the same order, flips and crops. Scores in 0..100 come from the confusion matrix pooled
    over all images: `mIoU` over all classes (mmsegmentation's arithmetic: a class neither there nor found is
    left out), `mIoU_foreground` without the background, `mIoU_mfnet` (see
    `clipfuse.downstream.confusion.mfnet_iou`), and `IoU/<class>`.

    The defaults were chosen by the mIoU of the visible images alone, on a validation part cut from MSRS's
    training blocks: the images whose number // 250 is 1 or 4 (211 of 685); the others were trained on, about
    150 s on one thread each, with seed 0. MSRS's test part had no say.

    Args:
        network: one of `clipfuse.downstream.networks.NETWORKS`.
        encoder: weights of the encoder before training: none (random), imagenet (torchvision's, downloaded),
            or a file with the encoder's state dict.
        updates: optimiser updates.
        batch_size: images per update.
        learning_rate: the highest of the schedule.
        weight_decay: of AdamW.
        crop: height and width of the images of an update; None: those of the smallest training image.
        scale: least and greatest magnification.
        class_weights: log: 1 / ln(1.1 + share of the class in the training labels), from 1.35 to 10.5, so
            that rare classes count; milder than ENet's 1.02 (Paszke et al. 2016); equal: 1.
        weights: frozen-1 takes the trained network of this file (`clipfuse.downstream.networks.weights_of`,
            or the state dict of torchvision's network) and trains none; coco: torchvision's own
            (`clipfuse.downstream.published`, downloaded), whose classes must hold all of the labels'.
        save: frozen-1 writes each network that it trains beside this name: judge.pt becomes judge-0.pt for
            seed 0. `loss=task` can take it as its frozen network.

    Raises:
        UserError: a value out of range; names it.
    """

    name: ClassVar[str] = "segmentation"
    needs = "classes"

    def __init__(
        self,
        network: str = "fpn_mobilenet_v3_small",
        encoder: str = "none",
        updates: int = 1600,
        batch_size: int = 4,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.01,
        crop: Sequence[int] | None = (192, 256),
        scale: Sequence[float] = (1.0, 1.5),
        class_weights: str = "log",
        weights: str | None = None,
        save: str | None = None,
    ) -> None:
        self.check_choice("network", network, tuple(NETWORKS))
        self.check_choice("class_weights", class_weights, CLASS_WEIGHTS)
        self.network, self.encoder, self.class_weights = network, str(encoder), class_weights
        self.weights, self.save = weights, save
        self.set_schedule(updates, batch_size, learning_rate, weight_decay, crop, scale)

    def settings(self) -> dict[str, Any]:
        """Return all that changes its scores, in plain types."""
        return {
            **{"network": self.network, "encoder": encoder_key(self.encoder)},
            **self.schedule(),
            "class_weights": self.class_weights,
            "weights": None if self.weights is None else weights_key(self.weights, self.network),
        }

    def trained(self, labels: LabelSet, channels: int) -> nn.Module | None:
        """Return the network of `weights`; None where there is none."""
        if self.weights is None:
            return None
        network = segmentation_network(self.network, "none", len(labels), channels, seed=0)
        if self.weights == COCO:
            names = output_names(labels.names, labels.background)
            load_published(network.network, self.network, published_outputs(self.network, names))
            return network
        last = list(network.network.state_dict())[-1]
        load_trained(network, self.network, labels.names, self.weights, last, len(labels))
        return network

    def keep(self, network: nn.Module, labels: LabelSet, seed: int) -> None:
        """Write the network of a seed to `save`, whose name gets the seed: judge.pt becomes judge-0.pt."""
        if self.save is not None:
            write_trained(self.save, seed, network, self.network, labels.names)

    def check(self, labels: LabelSet, train: Sequence[Example], test: Sequence[Example]) -> None:
        """Require maps of classes of the images' size, of known classes, and two classes in each part.

        Raises:
            UserError: names the image or the part, and what is missing.
        """
        for part, examples in (("training", train), ("test", test)):
            present = {
                name for name, share in zip(labels.names, shares(labels, examples), strict=True) if share
            }
            if len(present) < 2:
                found = f"class '{present.pop()}' alone" if present else "no labelled pixel"
                raise UserError(
                    f"the labels of the {part} part hold {found}; segmentation needs pixels of two "
                    "classes or more in both parts"
                )

    def build(self, labels: LabelSet, channels: int, seed: int) -> nn.Module:
        """Return a network of (N, channels, H, W) in [0, 1] to logits (N, C, H, W)."""
        return segmentation_network(self.network, self.encoder, len(labels), channels, seed)

    def prepare(self, network: nn.Module, examples: Sequence[Example]) -> None:
        """Set the weights of the classes from the training labels, which are those of every source.

        A class without a training pixel, such as an ignored background, has none; `judge` never finds it.
        """
        weights: Any = network.class_weights
        for place, share in enumerate(shares(LabelSet(tuple(map(str, range(len(weights))))), examples)):
            weights[place] = float(share > 0)
            if share and self.class_weights == "log":
                weights[place] = 1 / math.log(_LOG_OFFSET + share)

    def loss(self, network: nn.Module, images: Tensor, examples: Sequence[Example]) -> Tensor:
        """Return the mean cross entropy of labelled pixels, each with the weight of its class."""
        truth = torch.stack([_classes(each) for each in examples]).to(images.device).long()
        weights: Any = network.class_weights
        total = cross_entropy(network(images), truth, weights, ignore_index=IGNORED, reduction="sum")
        counts = torch.bincount(truth.flatten(), minlength=IGNORED + 1)[: len(weights)]
        return total / (counts * weights).sum().clamp(min=1e-9)

    def judge(self, network: nn.Module, labels: LabelSet, example: Example) -> Judgement:
        """Return the confusion matrix, rows truth and columns found, and the map that was found."""
        image = example.image[None].to(next(network.parameters()).device).float().div_(255)
        logits = network(image.contiguous(memory_format=torch.channels_last))
        known: Any = network.class_weights
        logits = logits[0].masked_fill(known[:, None, None] == 0, -math.inf)
        found = logits.argmax(dim=0).to(torch.uint8).cpu()
        return {
            "confusion": confusion_matrix(_classes(example), found, len(labels)).tolist(),
            "map": found,
        }

    def scores(self, labels: LabelSet, judgements: Sequence[Judgement]) -> dict[str, float]:
        """Return `mIoU`, `mIoU_foreground`, `mIoU_mfnet` and `IoU/<class>` in 0..100."""
        matrix = pooled([each["confusion"] for each in judgements], len(labels))
        each_class = class_iou(matrix)
        foreground = mfnet = math.nan
        if labels.background is not None:
            foreground = mean([value for i, value in enumerate(each_class) if i != labels.background])
            mfnet = mean(mfnet_iou(matrix, labels.background), absent=False)
        scores = {"mIoU": mean(each_class), "mIoU_foreground": foreground, "mIoU_mfnet": mfnet}
        scores |= {f"IoU/{name}": value for name, value in zip(labels.names, each_class, strict=True)}
        return {name: 100 * value for name, value in scores.items()}

    def draw(self, labels: LabelSet, example: Example, judgement: Judgement | None) -> Tensor:
        """Return the image under the colours of its classes, (3, H, W) uint8; background and ignored stay."""
        found = _classes(example) if judgement is None else judgement["map"]
        return paint_classes(example.image[:3], labels, found)


def shares(labels: LabelSet, examples: Sequence[Example]) -> list[float]:
    """Return each class's share of the labelled pixels, in 0..1.

    Raises:
        UserError: an example has no map, one of another size than its image, or a class that is not named.
    """
    counts = torch.zeros(IGNORED + 1, dtype=torch.int64)
    for each in examples:
        classes = _classes(each)
        if classes.shape != each.image.shape[1:]:
            size, expected = ("x".join(map(str, shape)) for shape in (classes.shape, each.image.shape[1:]))
            raise UserError(f"the map of classes of {each.name} has size {size}, its image {expected}")
        here = torch.bincount(classes.flatten().long(), minlength=IGNORED + 1)
        strange = here[len(labels) : IGNORED].nonzero().flatten().tolist()
        if strange:
            raise UserError(
                f"the map of classes of {each.name} holds class {len(labels) + strange[0]}; expected 0 to "
                f"{len(labels) - 1} ({', '.join(labels.names)}) or {IGNORED} where there is no label"
            )
        counts += here
    known = counts[: len(labels)].double()
    return (known / known.sum().clamp(min=1)).tolist()


def _classes(example: Example) -> Tensor:
    if example.classes is None:
        raise UserError(f"image {example.name} has no map of classes; segmentation needs one for each image")
    return example.classes
