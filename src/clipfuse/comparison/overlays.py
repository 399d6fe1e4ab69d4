"""What task networks found, drawn over the images that they saw."""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw
from torch import Tensor

from clipfuse.comparison.album import Album, Sources, encode, fused_image
from clipfuse.comparison.evidence import matched
from clipfuse.comparison.judged import FOLDER, Judged
from clipfuse.comparison.machine import Seen
from clipfuse.comparison.plots import COLORS
from clipfuse.comparison.variants import Variant
from clipfuse.comparison.zips import read_image_in
from clipfuse.errors import UserError
from clipfuse.files import is_there
from clipfuse.types import IGNORED, LabelSet

IMAGES = 8
BUDGET = 1_400_000  # bytes of all drawings of a report in base64
TRUTH = "truth"
LEAST_SCORE = 0.3  # of a box that is drawn
_SHARE = 0.6  # of a class's colour in a pixel

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
        f"each source; at most {side} px wide or high"
    )
    if seen.task == "detection":
        note += (
            f"; boxes of score {LEAST_SCORE} or more, thin where they cover no object of their class by "
            "half; objects are dotted white"
        )
    if problems:
        note += f"; {len(problems)} cannot be drawn, the first: {problems[0]}"
    return Album(uris, note)


def colors_of(labels: LabelSet) -> list[tuple[int, int, int]]:
    """Return RGB of each class: the data set's palette, else colours that most eyes tell apart."""
    if len(labels.palette) == len(labels):
        return list(labels.palette)
    plain = [tuple(int(text[place : place + 2], 16) for place in (1, 3, 5)) for text in COLORS]
    return [(r, g, b) for r, g, b in (plain[index % len(plain)] for index in range(len(labels)))]


def _chosen(seen: Seen) -> list[str]:
    first = seen.first[0]
    if seen.task == "segmentation":
        return [name for name in seen.images if is_there(_map_file(first, name))][:IMAGES]
    often = sorted(first.boxes, key=lambda name: -len(first.boxes[name][0]))[:IMAGES]
    return [name for name in seen.images if name in often]


def _map_file(judged: Judged, name: str):  # type: ignore[no-untyped-def]  # a path in a folder or zip
    kind = f"{judged.protocol}-{judged.seed}"
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
    return _painted(plane[0].numpy(), seen.labels, base)


def _truth(seen: Seen, name: str, visible: Image.Image | None, truth: Truth | None) -> Image.Image | None:
    if seen.task == "detection":
        if visible is None:
            return None
        objects = seen.first[0].boxes[name][0]
        return _boxes(visible, seen.labels, objects, np.zeros((0, 6)))
    classes = truth(name) if truth else None
    if classes is None:
        return None
    plane = classes.numpy()
    known = (plane < len(seen.labels)) | (plane == IGNORED)
    return _painted(plane, seen.labels, visible) if known.all() else None


def _painted(classes: NDArray, labels: LabelSet, base: Image.Image | None) -> Image.Image:
    """Lay the colours of classes over an image; the background and pixels without a label stay."""
    palette = np.zeros((IGNORED + 1, 3))
    palette[: len(labels)] = colors_of(labels)
    size = classes.shape[1], classes.shape[0]
    under = np.zeros((*classes.shape, 3)) if base is None else np.asarray(base.resize(size), dtype=np.float64)
    bare = (classes == IGNORED) | (classes == (-1 if labels.background is None else labels.background))
    mixed = np.where(bare[..., None], under, (1 - _SHARE) * under + _SHARE * palette[classes.astype(int)])
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


def _boxes(base: Image.Image, labels: LabelSet, objects: NDArray, found: NDArray) -> Image.Image:
    """Draw what is there dotted in white, what was found in the colour of its class."""
    image = base.copy()
    draw = ImageDraw.Draw(image)
    colors = colors_of(labels)
    for left, top, right, bottom, kind in objects:
        if len(found):
            _dotted(draw, (left, top, right, bottom))
        else:
            draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colors[int(kind)])
    for kind in range(len(labels)):
        own = found[(found[:, 5] == kind) & (found[:, 4] >= LEAST_SCORE)]
        own = own[np.argsort(-own[:, 4], kind="stable")]
        hits = matched(own[:, :4], objects[objects[:, 4] == kind][:, :4])[0]
        for (left, top, right, bottom), hit in zip(own[:, :4], hits, strict=True):
            if all(map(isfinite, (left, top, right, bottom))):
                corners = (min(left, right), min(top, bottom), max(left, right), max(top, bottom))
                draw.rectangle(corners, outline=colors[kind], width=2 if hit else 1)
    return image


def _dotted(draw: ImageDraw.ImageDraw, box: Sequence[float]) -> None:
    left, top, right, bottom = (float(np.clip(side, -1e4, 1e4)) for side in box)
    across, down = np.arange(left, right, 4), np.arange(top, bottom, 4)
    points = [(x, y) for x in across for y in (top, bottom - 1)] + [
        (x, y) for y in down for x in (left, right - 1)
    ]
    draw.point(points, fill=(255, 255, 255))
