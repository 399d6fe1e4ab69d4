"""Task networks that torchvision publishes whole, trained on COCO: `weights=coco` of protocol frozen-1.

Such a network has seen none of the sources, and no fused image at all. Its outputs for the labels' classes
are found by their names; a class of COCO that the labels do not have is never found.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchvision.models.detection import (
    FasterRCNN_MobileNet_V3_Large_320_FPN_Weights,
    SSDLite320_MobileNet_V3_Large_Weights,
)
from torchvision.models.segmentation import (
    DeepLabV3_MobileNet_V3_Large_Weights,
    LRASPP_MobileNet_V3_Large_Weights,
)

from clipfuse.errors import UserError, reason

COCO = "coco"
PUBLISHED: dict[str, Any] = {
    "lraspp_mobilenet_v3_large": LRASPP_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1,
    "deeplabv3_mobilenet_v3_large": DeepLabV3_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1,
    "ssdlite_mobilenet_v3_large": SSDLite320_MobileNet_V3_Large_Weights.COCO_V1,
    "fasterrcnn_mobilenet_v3_large": FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1,
}
"""By the name of a task network: torchvision's weights of it, with the names of its outputs."""
BACKGROUND = "__background__"
_SAME = {
    **dict.fromkeys(("people", "pedestrian", "human"), "person"),
    **dict.fromkeys(("bike", "cycle"), "bicycle"),
    **dict.fromkeys(("motor", "motorbike"), "motorcycle"),
}  # names of infrared data sets, and of VOC, as COCO has them


def published_url(network: str) -> str:
    """Return the address of a network's weights, which has the start of their SHA-256.

    Raises:
        UserError: torchvision publishes none of this network.
    """
    if network not in PUBLISHED:
        raise UserError(
            f"downstream.weights={COCO}: torchvision has no trained {network}; it has those of "
            f"{', '.join(PUBLISHED)}: set downstream.network to one of them, or give a file"
        )
    return str(PUBLISHED[network].url)


def fetch(published: Any, setting: str, instead: str) -> dict[str, Tensor]:
    """Return the state dict of torchvision's weights, from its cache or its address.

    Args:
        published: a member of one of torchvision's enumerations of weights.
        setting: what asked for it, for the message.
        instead: what to do where it cannot be had, for the message.

    Raises:
        UserError: it cannot be fetched, or its content is not what its name promises.
    """
    try:
        state: dict[str, Tensor] = published.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # the network, the cache, a wrong checksum: all of it is the hub's
        raise UserError(
            f"{setting}: {published.url} cannot be fetched ({reason(error)}); {instead}"
        ) from error
    return state


def published_outputs(network: str, classes: Sequence[str]) -> list[int]:
    """Return the output of a published network for each class, found by its name.

    Raises:
        UserError: torchvision publishes none of this network, or it does not find one of the classes.
    """
    published_url(network)
    names = [_plain(name) for name in PUBLISHED[network].meta["categories"]]
    if unknown := [name for name in classes if _plain(name) not in names]:
        raise UserError(
            f"downstream.weights={COCO}: the published {network} does not find {', '.join(unknown)}; it "
            f"finds {', '.join(each for each in names[1:] if each != 'n/a')}. Name objects that it finds in "
            "data.labels.objects (for detection), take labels of such classes, or give a file"
        )
    return [names.index(_plain(name)) for name in classes]


def published_state(network: str, outputs: Sequence[int] | None = None) -> dict[str, Tensor]:
    """Return the published weights of a network, without its auxiliary head.

    Args:
        network: its name, of `PUBLISHED`.
        outputs: of a segmentation network the outputs that are taken; all by default.

    Raises:
        UserError: the weights cannot be had.
    """
    instead = "put it into torch's cache of checkpoints by hand, or give a file of your own"
    given = fetch(PUBLISHED[network], f"downstream.weights={COCO}", instead)
    state = {key: value for key, value in given.items() if not key.startswith("aux_")}
    if outputs is not None:
        count = len(PUBLISHED[network].meta["categories"])
        last = [key for key in state if key.startswith("classifier.") and state[key].shape[:1] == (count,)]
        state |= {key: state[key][list(outputs)] for key in last}
    return state


def _plain(name: str) -> str:
    """Return the name by which classes are found: in lower case, people as person."""
    name = name.strip().lower().replace("_", " ").strip()
    return _SAME.get(name, name)


def output_names(names: Sequence[str], background: int | None) -> list[str]:
    """Return the names of a segmentation network's outputs, the labels' background as `BACKGROUND`."""
    return [BACKGROUND if index == background else name for index, name in enumerate(names)]
