"""Detectors of torchvision with any number of channels, small enough for a CPU."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import MobileNet_V3_Large_Weights, mobilenet_v3_large
from torchvision.models.detection import _utils, fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet, SSDLiteHead

from clipfuse.downstream.networks import (
    extend_first_layer,
    load_encoder,
    load_published,
    load_trained,
    trained_weights,
)
from clipfuse.downstream.precision import MOST_FOUND
from clipfuse.downstream.published import COCO, PUBLISHED, published_outputs
from clipfuse.errors import UserError
from clipfuse.ops.seeding import derived_seed
from clipfuse.types import LabelSet

LEAST_SCORE = 0.01
"""What is found with a lower score is left out: it hardly moves the average precision and fills the files."""

_MEAN, _DEVIATION = (0.485, 0.456, 0.406, 0.449), (0.229, 0.224, 0.225, 0.226)
_LAST = r"(classification_head\..*|cls_score)\.bias$"  # its length is a multiple of the number of outputs
_PUBLISHED_SIZE, _PUBLISHED_MOST = 320, 300  # classes that are left out take places among what is found
_WEIGHTS = MobileNet_V3_Large_Weights.IMAGENET1K_V1


class Detector(nn.Module):
    """A detector of torchvision that holds the classes of its outputs.

    Args:
        network: with torchvision's interface of detectors; output 0 is no object.
        classes: indices of `LabelSet.names`.
        outputs: the output of each class; by default k + 1 is that of `classes[k]`. What is found of other
            outputs is left out.
    """

    def __init__(
        self, network: nn.Module, classes: Sequence[int], outputs: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.network, self.classes = network, tuple(classes)
        self.outputs = outputs

    def forward(self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None) -> Any:
        """Return torchvision's losses by name in training; in evaluation its boxes, scores and labels.

        Label k + 1 is `classes[k]`.
        """
        found = self.network(list(images), targets)
        return found if self.outputs is None or self.training else [self._known(each) for each in found]

    def _known(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what is found of the outputs, with labels 1, 2, ..."""
        of_output = {output: place for place, output in enumerate(self.outputs or (), start=1)}
        labels = found["labels"].new_tensor([of_output.get(each, 0) for each in found["labels"].tolist()])
        return {name: value[labels > 0] for name, value in {**found, "labels": labels}.items()}


def trained_detector(name: str, path: str, labels: LabelSet, channels: int, size: int) -> Detector:
    """Return the detector of a file, or the published one.

    Args:
        name: one of `NETWORKS`.
        path: as `clipfuse.downstream.networks.load_trained` takes it; or coco.
        labels: whose countable classes it must find.
        channels: of the images.
        size: as `detector`.

    Raises:
        UserError: the file cannot be read, is of another architecture, or finds other classes; the published
            weights cannot be had, or `size` is not theirs.
    """
    if path == COCO:
        return _published(name, labels, channels, size)
    given = trained_weights(path)[0]
    kinds = [
        detector(name, "none", labels.countable, channels, size, 0, reduced) for reduced in (True, False)
    ]
    found = max(kinds, key=lambda each: _fitting(each, given))  # they differ in the widths of some layers
    state = found.network.state_dict()
    last = next(key for key in reversed(state) if re.search(_LAST, key))
    classes = [labels.names[index] for index in labels.countable]
    load_trained(found, name, classes, path, last, len(classes) + 1)
    return found


def _published(name: str, labels: LabelSet, channels: int, size: int) -> Detector:
    """Return torchvision's detector with its weights; SSDlite with its own default boxes, too."""
    outputs = published_outputs(name, [labels.names[index] for index in labels.countable])
    count = len(PUBLISHED[name].meta["categories"])
    network: Any = detector(name, "none", range(count - 1), channels, size, 0).network
    if isinstance(network, SSD):
        if size != _PUBLISHED_SIZE:
            raise UserError(
                f"downstream.size is {size}; the published {name} takes {_PUBLISHED_SIZE}: leave it out"
            )
        boxes = DefaultBoxGenerator([[2, 3] for _ in range(6)], min_ratio=0.2, max_ratio=0.95)
        network.anchor_generator, network.detections_per_img = boxes, _PUBLISHED_MOST
    else:
        network.roi_heads.detections_per_img = _PUBLISHED_MOST
    load_published(network, name)
    return Detector(network, labels.countable, outputs)


def _fitting(network: Detector, given: Mapping[str, Any]) -> int:
    """Return how many weights of a file have the shape that they need."""
    shapes = {key: value.shape for key, value in given.items() if isinstance(value, Tensor)}
    return sum(shapes.get(key) == value.shape for key, value in network.network.state_dict().items())


def detector(
    name: str,
    encoder: str,
    classes: Sequence[int],
    channels: int,
    size: int,
    seed: int,
    reduced: bool | None = None,
) -> Detector:
    """Return a new detector; the same seed gives the same start for three and for four channels.

    Args:
        name: one of `NETWORKS`.
        encoder: none, imagenet, or a file.
        classes: of the objects, indices of `LabelSet.names`.
        channels: 3, or 4 for both bands; infrared starts with the mean of the weights of red, green and blue.
        size: side of the square, or shorter side, to which images are resized.
        seed: decides the random weights; the global random state stays as it was.
        reduced: whether SSDlite's encoder ends in half as many channels, as torchvision builds it for random
            weights; None: with encoder=none.

    Raises:
        UserError: the encoder's weights cannot be fetched or read, or are those of another network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "network"))
        slim = encoder == "none" if reduced is None else reduced
        network = NETWORKS[name](name, encoder, len(classes) + 1, channels, size, slim)
    return Detector(network, classes).to(memory_format=torch.channels_last)


def _ssdlite(name: str, encoder: str, outputs: int, channels: int, size: int, slim: bool) -> nn.Module:
    """Compose torchvision's `ssdlite320_mobilenet_v3_large` with other default boxes and start weights."""
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
    features = mobilenet_v3_large(weights=None, norm_layer=norm, reduced_tail=slim).features
    load_encoder(features, name, encoder, _WEIGHTS)
    extractor = SSDLiteFeatureExtractorMobileNet(features, 13, norm)
    boxes = DefaultBoxGenerator([[2, 3] for _ in range(6)], min_ratio=0.06, max_ratio=0.9)
    depths = _utils.retrieve_out_channels(extractor, (size, size))
    extend_first_layer(extractor, channels)
    return SSD(
        extractor,
        boxes,
        (size, size),
        outputs,
        image_mean=[0.5] * channels,
        image_std=[0.5] * channels,
        head=SSDLiteHead(depths, boxes.num_anchors_per_location(), outputs, norm),
        score_thresh=LEAST_SCORE,
        nms_thresh=0.55,
        detections_per_img=MOST_FOUND,
        topk_candidates=300,
    )


def _fasterrcnn(name: str, encoder: str, outputs: int, channels: int, size: int, slim: bool) -> nn.Module:
    network = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=outputs,
        min_size=size,
        max_size=2 * size,
        image_mean=list(_MEAN[:channels]),
        image_std=list(_DEVIATION[:channels]),
        box_score_thresh=LEAST_SCORE,
        box_detections_per_img=MOST_FOUND,
    )
    load_encoder(network.backbone.body, name, encoder, _WEIGHTS)
    extend_first_layer(network.backbone.body, channels)
    return network


NETWORKS: dict[str, Callable[[str, str, int, int, int, bool], nn.Module]] = {
    "ssdlite_mobilenet_v3_large": _ssdlite,
    "fasterrcnn_mobilenet_v3_large": _fasterrcnn,
}
"""By name: the builder from name, encoder, number of outputs, channels, size, and whether it is reduced."""
