"""Task networks that torchvision publishes: their outputs by name, against torchvision's own networks.

No weights can be downloaded in a test: torchvision's networks with random weights stand in, whose state dicts
have the names and shapes of the published ones.
"""

import re
from collections.abc import Callable
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection, segmentation
from torchvision.models._api import WeightsEnum

from clipfuse.downstream.base import Example
from clipfuse.downstream.detection import Detection
from clipfuse.downstream.detectors import LEAST_SCORE
from clipfuse.downstream.precision import MOST_FOUND
from clipfuse.downstream.published import PUBLISHED, published_outputs
from clipfuse.downstream.segmentation import Segmentation
from clipfuse.errors import UserError
from clipfuse.types import Boxes, LabelSet

LABELS = LabelSet(("unlabelled", "People", "car", "bike"), background=0)
COLUMNS = [0, 15, 7, 2]  # of VOC: background, person, car, bicycle
OUTPUTS = {1: 1, 3: 2, 2: 3}  # of COCO: person, car, bicycle -> index in LABELS
IMAGE = torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(1))
BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "lraspp_mobilenet_v3_large": segmentation.lraspp_mobilenet_v3_large,
    "deeplabv3_mobilenet_v3_large": segmentation.deeplabv3_mobilenet_v3_large,
    "ssdlite_mobilenet_v3_large": detection.ssdlite320_mobilenet_v3_large,
    "fasterrcnn_mobilenet_v3_large": detection.fasterrcnn_mobilenet_v3_large_320_fpn,
}


def published(network: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let torchvision have random weights of a network; return its own network with them."""
    options: dict[str, Any] = {"weights": None, "weights_backbone": None}
    if "deeplab" in network:
        options["aux_loss"] = True  # as published
    if "ssd" in network:
        options |= {"score_thresh": LEAST_SCORE}
    if "rcnn" in network:
        options |= {"box_score_thresh": LEAST_SCORE, "box_detections_per_img": 300}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        own = BUILDERS[network](num_classes=len(PUBLISHED[network].meta["categories"]), **options)
        for name, value in own.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            if re.search(r"classification_head.*bias|cls_score\.bias", name) and len(value) % 91 == 0:
                value.unflatten(0, (-1, 91))[:, 1:4] += 3  # or nothing would be found of the classes
    state = own.state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: state)
    return own.eval()


@pytest.mark.parametrize("network", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
def test_maps_are_those_of_torchvision_s_network_among_the_classes_of_the_labels(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = published(network, monkeypatch)
    task = Segmentation(network=network, weights="coco")
    found = task.trained(LABELS, 3)
    assert found is not None
    mean, deviation = (Tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = own(((IMAGE - mean) / deviation)[None])["out"][:, COLUMNS]
        torch.testing.assert_close(found.eval()(IMAGE[None]), expected, rtol=1e-4, atol=1e-5)
    judged = task.judge(found, LABELS, Example("a", "s", (IMAGE * 255).byte(), torch.zeros(96, 128).byte()))
    assert 0 <= judged["map"].max() < len(LABELS)
    assert task.settings()["weights"].startswith("https://")


@pytest.mark.parametrize("network", ["ssdlite_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large"])
def test_boxes_are_those_that_torchvision_s_detector_finds_of_these_classes(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = published(network, monkeypatch)
    task = Detection(network=network, weights="coco")
    found = task.trained(LABELS, 3)
    assert found is not None
    image = (IMAGE * 255).byte()
    with torch.no_grad():
        expected = own([image.float() / 255])[0]
    rows = [
        [*box, score, OUTPUTS[label]]
        for box, score, label in zip(
            *(expected[name].tolist() for name in ("boxes", "scores", "labels")), strict=True
        )
        if label in OUTPUTS
    ]
    boxes = Boxes(torch.empty(0, 4), torch.empty(0, dtype=torch.int64))
    judged = task.judge(found.eval(), LABELS, Example("a", "s", image, boxes=boxes))["found"]
    best = sorted(rows, key=lambda each: -each[4])[:MOST_FOUND]
    assert len({row[5] for row in best}) > 1 or "rcnn" in network
    assert len(best) == MOST_FOUND
    for row, one in zip(best, judged, strict=True):
        assert row == pytest.approx(one, abs=0.01)


def test_what_cannot_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(task: Segmentation | Detection, labels: LabelSet = LABELS) -> str:
        with pytest.raises(UserError) as found:
            task.trained(labels, 3)
        return str(found.value)

    frozen = {"network": "lraspp_mobilenet_v3_large", "weights": "coco"}
    strange = LabelSet(("unlabelled", "car", "guardrail"), background=0)
    assert "does not find guardrail; it finds aeroplane, bicycle" in refused(Segmentation(**frozen), strange)
    assert "torchvision has no trained fpn_resnet10; it has those of lraspp" in refused(
        Segmentation(network="fpn_resnet10", weights="coco")
    )
    with pytest.raises(UserError, match="torchvision has no trained fpn_resnet10"):
        Segmentation(network="fpn_resnet10", weights="coco").settings()
    assert "downstream.size is 256; the published ssdlite" in refused(Detection(weights="coco", size=256))

    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", offline)
    found = refused(Segmentation(**frozen))
    assert "downstream.weights=coco: https://" in found
    assert "cannot be fetched" in found
    assert "or give a file" in found
    published("deeplabv3_mobilenet_v3_large", monkeypatch)
    assert "holds the weights of another network than lraspp" in refused(Segmentation(**frozen))


def test_names_of_infrared_data_sets_are_those_of_coco() -> None:
    names = ["Person", "pedestrian", "Motorcycle", "Motor", "traffic_light", "Truck", "Bus"]
    outputs = published_outputs("ssdlite_mobilenet_v3_large", names)
    assert outputs == [1, 1, 4, 4, 10, 8, 6]
