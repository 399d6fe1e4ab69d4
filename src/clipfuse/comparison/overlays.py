"""What task networks found, drawn over the images that they saw."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops
from torch import Tensor

from clipfuse.comparison.album import Album, Sources, encode, fused_image
from clipfuse.comparison.evidence import matched
from clipfuse.comparison.judged import FOLDER, Judged
from clipfuse.comparison.machine import Seen
from clipfuse.comparison.variants import Variant
from clipfuse.comparison.zips import read_image_in
from clipfuse.errors import UserError
from clipfuse.files import is_there
from clipfuse.ops.drawing import LEAST_SCORE, draw_boxes, paint_classes
from clipfuse.types import IGNORED, LabelSet

IMAGES = 8
BUDGET = 1_400_000  # bytes of all drawings of a report in base64
TRUTH = "truth"

Truth = Callable[[str], Tensor | None]  # name -> class of each pixel, (H, W) of whole numbers


def overlays(
    seen: Seen,
    variants: Sequence[Variant],
    sources: Sources | None,
    truth: Truth | None,
    budget: int = BUDGET,
) -> Album:
    """Return what the first task network of each row's first run found, over the image that it saw.

    Of a segmentation those images are shown whose maps were kept, of a detection those with most objects.

    Args:
        seen: the results.
        variants: the losses.
        sources: gives infrared and visible image of a test pair, if they are at hand.
        truth: gives the true classes of a test pair, if they are at hand.
        budget: the most bytes of all data URIs.
    """
    by_name = {variant.name: variant for variant in variants}
    problems: list[str] = []
    images: dict[str, dict[str, Image.Image]] = {}
    for name in _chosen(seen):
        pair = {key: image.convert("RGB") for key, image in (sources(name) if sources else {}).items()}
        shown: dict[str, Image.Image] = {}
        real = _truth(seen, name, pair.get("visible"), truth)
        if real is not None:
            shown[TRUTH] = real
        for row, judged in enumerate(seen.first):
            source = seen.rows[row]
            try:
                base = fused_image(by_name[source], name) if row < seen.losses else _plain(source, pair)
                drawn = _drawn(seen, judged, name, None if base is None else base.convert("RGB"))
            except UserError as error:
                problems.append(str(error))
                continue
            if drawn is not None:
                shown[source] = drawn
        if shown:
            images[name] = shown
    uris, side, _ = encode(images, budget)
    what = "those whose maps were kept" if seen.task == "segmentation" else "those with the most objects"
    note = (
        f"{len(uris)} of {len(seen.images)} test images: {what}; first run and task seed {seen.seeds[0]} of "
        f"each source; at most {side} px wide or high; what is neither run nor trivial fusion lies over the "
        "visible image"
    )
    if seen.task == "detection":
        note += (
            f"; boxes of score {LEAST_SCORE} or more, thin where they cover no object of their class by "
            "half; objects are dashed"
        )
    if problems:
        note += f"; {len(problems)} cannot be drawn, the first: {problems[0]}"
    return Album(uris, note)


def _chosen(seen: Seen) -> list[str]:
    first = seen.first[0]
    if seen.task == "segmentation":
        return [name for name in seen.images if is_there(_map_file(first, name))][:IMAGES]
    often = sorted(first.boxes, key=lambda name: -len(first.boxes[name][0]))[:IMAGES]
    return [name for name in seen.images if name in often]


def _map_file(judged: Judged, name: str):  # type: ignore[no-untyped-def]  # a path in a folder or zip
    kind = f"{judged.protocol}-{judged.seed}-{judged.kind[:8]}"
    return judged.folder / FOLDER / judged.task / "predicted" / kind / f"{name}.png"


def _plain(name: str, pair: Mapping[str, Image.Image]) -> Image.Image | None:
    """Return the image of a source that no run has made; of unknown ones the visible image."""
    infrared, visible = pair.get("infrared"), pair.get("visible")
    if infrared is None or visible is None or infrared.size != visible.size:
        return pair.get(name, visible)
    if name in ("average", "maximum"):
        luma, *chroma = visible.convert("YCbCr").split()
        other = infrared.convert("L")
        fused = Image.blend(luma, other, 0.5) if name == "average" else ImageChops.lighter(luma, other)
        return Image.merge("YCbCr", (fused, *chroma)).convert("RGB")
    return infrared if name == "infrared" else visible


def _drawn(seen: Seen, judged: Judged, name: str, base: Image.Image | None) -> Image.Image | None:
    if seen.task == "detection":
        return None if base is None else _boxes(base, seen.labels, *judged.boxes[name])
    file = _map_file(judged, name)
    if not is_there(file):
        return None
    plane = read_image_in(file, judged.folder)
    if plane.shape[0] != 1 or int(plane.max()) >= len(seen.labels):
        raise UserError(f"{file}: is no map of {len(seen.labels)} classes")
    return _painted(plane[0], seen.labels, base)


def _truth(seen: Seen, name: str, visible: Image.Image | None, truth: Truth | None) -> Image.Image | None:
    if seen.task == "detection":
        if visible is None:
            return None
        objects = seen.first[0].boxes[name][0]
        return _boxes(visible, seen.labels, objects, None)
    classes = truth(name) if truth else None
    if classes is None:
        return None
    known = (classes < len(seen.labels)) | (classes == IGNORED)
    return _painted(classes, seen.labels, visible) if bool(known.all()) else None


def _painted(classes: Tensor, labels: LabelSet, base: Image.Image | None) -> Image.Image:
    """Paint a map of classes over an image, or over black."""
    high, wide = classes.shape
    under = (
        torch.zeros(3, high, wide, dtype=torch.uint8) if base is None else _tensor(base.resize((wide, high)))
    )
    return _image(paint_classes(under, labels, classes))


def _boxes(base: Image.Image, labels: LabelSet, objects: NDArray, found: NDArray | None) -> Image.Image:
    """Draw objects, and what was found: thin where it covers no object of its class by half."""
    if found is None:
        return _image(draw_boxes(_tensor(base), labels, objects.tolist()))
    hits = np.zeros(len(found), dtype=bool)
    for kind in range(len(labels)):
        own = np.flatnonzero((found[:, 5] == kind) & (found[:, 4] >= LEAST_SCORE))
        own = own[np.argsort(-found[own, 4], kind="stable")]
        hits[own] = matched(found[own, :4], objects[objects[:, 4] == kind][:, :4])[0]
    return _image(draw_boxes(_tensor(base), labels, objects.tolist(), found.tolist(), hits.tolist()))


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def _image(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
