"""The test images that a report shows."""

from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import isnan
from statistics import fmean

from PIL import Image
from torch import Tensor

from clipfuse.comparison.table import Table
from clipfuse.comparison.variants import Variant
from clipfuse.comparison.zips import read_image_in
from clipfuse.errors import UserError
from clipfuse.files import is_there
from clipfuse.ops.depth import to_bytes, to_unit

IMAGES = 20
BUDGET = 5_500_000  # bytes of all images in base64: the report stays below 8 MB
LADDER = ((640, 90), (640, 75), (480, 75), (400, 65), (320, 60), (240, 40))  # longest side in pixels, quality
EXTREMES = 3

Sources = Callable[[str], Mapping[str, Image.Image]]  # name -> {"infrared": image, "visible": image}
# metric -> loss -> best|worst -> [(image, score)]
Extremes = dict[str, dict[str, dict[str, list[tuple[str, float]]]]]


@dataclass(frozen=True)
class Album:
    """The images of a report.

    Attributes:
        uris: test image -> name of a loss, or "infrared" and "visible" -> data URI.
        note: how they were chosen and made.
    """

    uris: Mapping[str, Mapping[str, str]]
    note: str


def extremes(table: Table, variants: Sequence[Variant]) -> Extremes:
    """Return the images each loss is best and worst on by each metric, scores averaged over seeds."""
    found: Extremes = {}
    for column in table.columns:
        if column.protocol is not None:  # no image has a score of its own
            continue
        for variant in variants:
            scores = {
                image: fmean(run.scores[column.name][image] for run in variant.runs) for image in table.images
            }
            defined = [(image, score) for image, score in scores.items() if not isnan(score)]
            best = sorted(defined, key=lambda pair: pair[1], reverse=column.higher_is_better)
            found.setdefault(column.name, {})[variant.name] = {
                "best": best[:EXTREMES],
                "worst": best[::-1][:EXTREMES],
            }
    return found


def choose(images: Sequence[str], found: Extremes, count: int = IMAGES) -> list[str]:
    """Return up to `count` images: half those most often among the best or worst, the rest evenly."""
    often = Counter(
        image
        for losses in found.values()
        for kinds in losses.values()
        for pairs in kinds.values()
        for image, _ in pairs
    )
    chosen = {image for image, _ in often.most_common(min(count, len(images)) // 2)}
    rest = [image for image in images if image not in chosen]
    wanted = min(count, len(images)) - len(chosen)
    chosen |= {rest[index * len(rest) // wanted] for index in range(wanted)}
    return [image for image in images if image in chosen]


def album(
    table: Table, variants: Sequence[Variant], found: Extremes, sources: Sources | None, budget: int = BUDGET
) -> Album:
    """Return the images of the first seed of each loss, beside their sources, as data URIs.

    Args:
        table: the comparison; its losses are shown in its order.
        variants: the losses.
        found: of `extremes`.
        sources: gives infrared and visible image of a test pair, if they are at hand.
        budget: the most bytes of all data URIs.
    """
    by_name = {variant.name: variant for variant in variants}
    images: dict[str, dict[str, Image.Image]] = {}
    unreadable: list[str] = []
    for name in choose(table.images, found):
        shown = dict(sources(name)) if sources else {}
        for row in table.losses:
            try:
                fused = fused_image(by_name[row.name], name)
            except UserError as error:
                unreadable.append(str(error))
                continue
            shown |= {row.name: fused} if fused else {}
        if shown:
            images[name] = shown
    uris, side, quality = encode(images, budget)
    note = (
        f"{len(uris)} of {len(table.images)} test images: those most often among the best or worst, and "
        f"others evenly; first seed of each loss; at most {side} px wide or high, WebP of quality {quality}, "
        "which loses the finest noise"
    )
    if unreadable:
        note += f"; {len(unreadable)} images cannot be read, the first: {unreadable[0]}"
    return Album(uris, note)


def encode(
    images: Mapping[str, Mapping[str, Image.Image]], budget: int, ladder: Sequence[tuple[int, int]] = LADDER
) -> tuple[dict[str, dict[str, str]], int, int]:
    """Return images as data URIs within a budget of bytes, their longest side in pixels, and their quality.

    They are scaled down as far as the ladder goes; what does not fit then is left out from the end.
    """
    uris: dict[str, dict[str, str]] = {}
    side, quality = ladder[0]
    for side, quality in ladder:
        uris, left = {}, budget
        for name, shown in images.items():
            encoded = {key: _uri(image, side, quality) for key, image in shown.items()}
            left -= sum(map(len, encoded.values()))
            if left < 0:
                break
            uris[name] = encoded
        else:
            break
    return uris, side, quality


def fused_image(variant: Variant, name: str) -> Image.Image | None:
    """Return the fused test image of the first seed of a loss, in colour if it was saved so.

    None if it was not saved.

    Raises:
        UserError: the file cannot be read, or is a link that leads out of the run folder.
    """
    run = variant.runs[0].folder
    for kind in ("color", "fused"):
        path = run / "test" / kind / f"{name}.png"
        if is_there(path):
            return as_image(to_unit(read_image_in(path, run)))
    return None


def as_image(image: Tensor) -> Image.Image:
    """Return (1 or 3, H, W) in [0, 1] as an 8-bit image, gray or in colour."""
    return Image.fromarray(to_bytes(image).permute(1, 2, 0).squeeze(-1).numpy())


def _uri(image: Image.Image, side: int, quality: int) -> str:
    scaled = image.convert("RGB")
    scaled.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = BytesIO()
    scaled.save(out, format="WEBP", quality=quality, method=4)
    return f"data:image/webp;base64,{b64encode(out.getvalue()).decode()}"
