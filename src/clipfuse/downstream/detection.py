"""Detection: where are the objects? Small networks of torchvision, scored by COCO's average precision.

Objects are the boxes of a data set of the classes that `LabelSet.countable` names; boxes of other classes
count nowhere. With `boxes: components` they are made from maps of classes instead: each connected part of
such a class is an object; pixels that are `IGNORED` belong to none. Own design, since MSRS and MFNet have
maps alone: objects that touch become one, an object behind a pole becomes two, for all sources alike.

Images without objects stay in both parts: whatever is found on them lowers the precision.

A judgement is {"objects": [[x1, y1, x2, y2, class], ...], "found": [[x1, y1, x2, y2, score, class], ...]}, at
most 100 found ones by falling score; pixels to 0.01, scores to 1e-6, classes as indices of `LabelSet.names`.
All scores come from these rounded numbers.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from clipfuse.downstream.base import Example, Judgement, Task
from clipfuse.downstream.detectors import LEAST_SCORE, NETWORKS, Detector, detector, trained_detector
from clipfuse.downstream.networks import encoder_key, weights_key, write_trained
from clipfuse.downstream.precision import MOST_FOUND, average_precision, require_scorer
from clipfuse.errors import UserError
from clipfuse.ops.drawing import draw_boxes
from clipfuse.ops.objects import components
from clipfuse.types import Boxes, LabelSet

_NEEDS = {"labels": "boxes", "components": "classes"}
_MISSING = {
    "labels": "has no boxes; take a data set with boxes, or make them from maps of classes by "
    "downstream.boxes=components",
    "components": "has no map of classes to make boxes from; set downstream.boxes=labels",
}


class Detection(Task):
    """Boxes of persons, cars and the like by a small detector of torchvision.

    Training is that of `clipfuse.downstream.learning`, the same for every source of images; the losses of the
    network are added up unweighted, as in torchvision's recipes.

    Args:
        network: one of `clipfuse.downstream.detectors.NETWORKS`; Faster R-CNN takes about ten times as long.
        encoder: weights of the encoder before training: none (random), imagenet (torchvision's, downloaded),
            or a file with the encoder's state dict.
        boxes: labels takes the boxes of the data set, components makes them from its maps of classes.
        smallest: fewest pixels of an object that is made from a map.
        size: side in pixels of the square to which SSDlite resizes an image; for Faster R-CNN of the
            shorter side.
        updates: optimiser updates.
        batch_size: images per update.
        learning_rate: the highest of the schedule.
        weight_decay: of AdamW.
        crop: height and width of the images of an update; None: those of the smallest training image.
        scale: least and greatest magnification.
        weights: frozen-1 takes the trained detector of this file and trains none; coco: torchvision's own
            (`clipfuse.downstream.published`, downloaded), which must find all of `LabelSet.countable`.
        save: frozen-1 writes each detector that it trains beside this name: judge.pt becomes judge-0.pt for
            seed 0.

    Raises:
        UserError: a value out of range; names it.
    """

    name: ClassVar[str] = "detection"

    def __init__(
        self,
        network: str = "ssdlite_mobilenet_v3_large",
        encoder: str = "none",
        boxes: str = "labels",
        smallest: int = 32,
        size: int = 320,
        updates: int = 600,
        batch_size: int = 4,
        learning_rate: float = 4e-3,
        weight_decay: float = 0.01,
        crop: Sequence[int] | None = None,
        scale: Sequence[float] = (1.0, 1.5),
        weights: str | None = None,
        save: str | None = None,
    ) -> None:
        self.check_choice("network", network, tuple(NETWORKS))
        self.check_choice("boxes", boxes, tuple(_NEEDS))
        for key, number, least in (("smallest", smallest, 1), ("size", size, 64)):
            if number < least:
                raise UserError(f"downstream.{key} is {number}; expected {least} or more")
        self.network, self.encoder, self.boxes = network, str(encoder), boxes
        self.smallest, self.size, self.needs = smallest, size, _NEEDS[boxes]
        self.weights, self.save = weights, save
        self.set_schedule(updates, batch_size, learning_rate, weight_decay, crop, scale)

    def settings(self) -> dict[str, Any]:
        """Return all that changes its scores, in plain types."""
        return {
            **{"network": self.network, "encoder": encoder_key(self.encoder), "boxes": self.boxes},
            **{"smallest": self.smallest, "size": self.size, "least_score": LEAST_SCORE},
            **self.schedule(),
            **({} if self.weights is None else {"weights": weights_key(self.weights, self.network)}),
        }

    def trained(self, labels: LabelSet, channels: int) -> Detector | None:
        """Return the detector of `weights`; None where there is none."""
        if self.weights is None:
            return None
        return trained_detector(self.network, self.weights, labels, channels, self.size)

    def keep(self, network: nn.Module, labels: LabelSet, seed: int) -> None:
        """Write the detector of a seed to `save`, whose name gets the seed: judge.pt becomes judge-0.pt."""
        if self.save is not None:
            classes = [labels.names[index] for index in labels.countable]
            write_trained(self.save, seed, network, self.network, classes)

    def check(self, labels: LabelSet, train: Sequence[Example], test: Sequence[Example]) -> None:
        """Require objects in both parts, and the package that scores them.

        Raises:
            UserError: a class is missing in the label set, an image has no labels, or a part no object.
        """
        require_scorer()
        if not labels.countable:
            raise UserError(
                f"the labels name no class of objects: classes are {', '.join(labels.names)}; name some in "
                "data.labels.objects"
            )
        for part, examples in (("training", train), ("test", test)):
            for each in examples:
                if getattr(each, self.needs) is None:
                    raise UserError(f"image {each.name} of the {part} part {_MISSING[self.boxes]}")
            if not any(len(self.objects(labels, each)) for each in examples):
                what = ", ".join(labels.names[index] for index in labels.countable)
                raise UserError(
                    f"no image of the {part} part ({len(examples)}) has an object of the classes {what}; "
                    "detection needs some"
                )

    def objects(self, labels: LabelSet, example: Example) -> Boxes:
        """Return what counts as an object on an image."""
        return self._objects(labels.countable, example)

    def _objects(self, classes: Sequence[int], example: Example) -> Boxes:
        if self.boxes == "components":
            assert example.classes is not None
            return components(example.classes, classes, self.smallest)
        assert example.boxes is not None
        kept = torch.isin(example.boxes.classes, torch.tensor(classes, dtype=torch.int64))
        return Boxes(example.boxes.xyxy[kept], example.boxes.classes[kept])

    def build(self, labels: LabelSet, channels: int, seed: int) -> Detector:
        """Return a network of images (channels, H, W) in [0, 1] to boxes, classes and scores."""
        return detector(self.network, self.encoder, labels.countable, channels, self.size, seed)

    def loss(self, network: nn.Module, images: Tensor, examples: Sequence[Example]) -> Tensor:
        """Return the sum of the network's losses, unweighted as in torchvision's recipes."""
        assert isinstance(network, Detector)
        targets = []
        for example in examples:
            truth = self._objects(network.classes, example)
            outputs = torch.tensor([network.classes.index(int(each)) + 1 for each in truth.classes])
            targets.append(
                {
                    "boxes": truth.xyxy.reshape(-1, 4).to(images.device),
                    "labels": outputs.to(images.device, torch.int64),
                }
            )
        losses: dict[str, Tensor] = network(images, targets)
        return torch.stack(list(losses.values())).sum()

    def judge(self, network: nn.Module, labels: LabelSet, example: Example) -> Judgement:
        """Return the objects of an image and what the network finds."""
        assert isinstance(network, Detector)
        device = next(network.parameters()).device
        with torch.no_grad():
            found = network([example.image.to(device).float().div(255)])[0]
        best = found["scores"].argsort(descending=True, stable=True)[:MOST_FOUND].tolist()
        boxes, scores, outputs = (found[name].tolist() for name in ("boxes", "scores", "labels"))
        truth = self.objects(labels, example)
        return {
            "objects": [
                [*_rounded(box), kind]
                for box, kind in zip(truth.xyxy.tolist(), truth.classes.tolist(), strict=True)
            ],
            "found": [
                [*_rounded(boxes[k]), round(scores[k], 6), network.classes[outputs[k] - 1]] for k in best
            ],
        }

    def scores(self, labels: LabelSet, judgements: Sequence[Judgement]) -> dict[str, float]:
        """Return `mAP50`, `mAP`, `AP50/CLASS` and `AP/CLASS` in 0..100 by the arithmetic of COCO.

        `mAP50` and AP50 count a find that covers an object with an intersection over union of 0.5 or more,
        `mAP` and AP are means over ten such limits, 0.5 to 0.95. A class without an object in these images is
        NaN and is in no mean, whatever was found.
        """
        precision = average_precision(judgements, labels.countable)
        of_class = {labels.names[index]: column for column, index in enumerate(labels.countable)}
        with np.errstate(invalid="ignore"):
            present = ~np.isnan(precision[0])
            whole = precision[:, present].mean() if present.any() else np.nan
            at_half = precision[0, present].mean() if present.any() else np.nan
        return {
            "mAP50": float(100 * at_half),
            "mAP": float(100 * whole),
            **{f"AP50/{name}": float(100 * precision[0, k]) for name, k in of_class.items()},
            **{f"AP/{name}": float(100 * precision[:, k].mean()) for name, k in of_class.items()},
        }

    def draw(self, labels: LabelSet, example: Example, judgement: Judgement | None) -> Tensor:
        """Return the image with found objects in solid and true ones in dashed lines, (3, H, W) uint8.

        Found objects of a score below 0.25 are left out.
        """
        image = example.image[:3].cpu()
        if judgement is None:
            truth = self.objects(labels, example)
            rows = zip(truth.xyxy.tolist(), truth.classes.tolist(), strict=True)
            return draw_boxes(image, labels, [[*box, kind] for box, kind in rows])
        return draw_boxes(image, labels, judgement["objects"], judgement["found"])


def _rounded(box: Sequence[float]) -> list[float]:
    return [round(side, 2) for side in box]
