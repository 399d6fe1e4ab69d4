"""Detectors of torchvision with any number of channels, small enough for a CPU."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import MobileNet_V3_Large_Weights, mobilenet_v3_large
from torchvision.models.detection import _utils, fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet, SSDLiteHead

from clipfuse.downstream.networks import extend_first_layer, load_encoder
from clipfuse.downstream.precision import MOST_FOUND
from clipfuse.ops.seeding import derived_seed

LEAST_SCORE = 0.01
"""What is found with a lower score is left out: it hardly moves the average precision and fills the files."""

_MEAN, _DEVIATION = (0.485, 0.456, 0.406, 0.449), (0.229, 0.224, 0.225, 0.226)
_WEIGHTS = MobileNet_V3_Large_Weights.IMAGENET1K_V1


class Detector(nn.Module):
    """A detector of torchvision that holds the classes of its outputs.

    Args:
        network: with torchvision's interface of detectors; output k + 1 is `classes[k]`, 0 is no object.
        classes: indices of `LabelSet.names`.
    """

    def __init__(self, network: nn.Module, classes: Sequence[int]) -> None:
        super().__init__()
        self.network, self.classes = network, tuple(classes)

    def forward(self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None) -> Any:
        """Return torchvision's losses by name in training; in evaluation its boxes, scores and labels."""
        return self.network(list(images), targets)


def detector(
    name: str, encoder: str, classes: Sequence[int], channels: int, size: int, seed: int
) -> Detector:
    """Return a new detector; the same seed gives the same start for three and for four channels.

    Args:
        name: one of `NETWORKS`.
        encoder: none, imagenet, or a file.
        classes: of the objects, indices of `LabelSet.names`.
        channels: 3, or 4 for both bands; infrared starts with the mean of the weights of red, green and blue.
        size: side of the square, or shorter side, to which images are resized.
        seed: decides the random weights; the global random state stays as it was.

    Raises:
        UserError: the encoder's weights cannot be fetched or read, or are those of another network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "network"))
        network = NETWORKS[name](name, encoder, len(classes) + 1, channels, size)
    return Detector(network, classes).to(memory_format=torch.channels_last)


def _ssdlite(name: str, encoder: str, outputs: int, channels: int, size: int) -> nn.Module:
    """Compose torchvision's `ssdlite320_mobilenet_v3_large` with other default boxes and start weights."""
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
    features = mobilenet_v3_large(weights=None, norm_layer=norm, reduced_tail=encoder == "none").features
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


def _fasterrcnn(name: str, encoder: str, outputs: int, channels: int, size: int) -> nn.Module:
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


NETWORKS: dict[str, Callable[[str, str, int, int, int], nn.Module]] = {
    "ssdlite_mobilenet_v3_large": _ssdlite,
    "fasterrcnn_mobilenet_v3_large": _fasterrcnn,
}
"""By name: the builder from name, encoder, number of outputs, channels and size."""
