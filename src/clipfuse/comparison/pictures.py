"""Which test pictures a report shows, and how they fit into it."""

from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import isnan
from statistics import fmean

from PIL import Image

from clipfuse.comparison.table import Table
from clipfuse.comparison.variants import Variant
from clipfuse.comparison.zips import read_image_in
from clipfuse.ops.depth import to_bytes, to_unit

PICTURES = 20
BUDGET = 5_500_000  # bytes of all pictures in base64: the report stays below 8 MB
LADDER = ((640, 90), (640, 75), (480, 75), (400, 65), (320, 60), (240, 40))  # longest side in pixels, quality
EXTREMES = 3

Sources = Callable[[str], Mapping[str, Image.Image]]  # image -> {"infrared": picture, "visible": picture}
Extremes = dict[
    str, dict[str, dict[str, list[tuple[str, float]]]]
]  # metric -> loss -> best|worst -> (image, score)


@dataclass(frozen=True)
class Album:
    """The pictures of a report.

    Attributes:
        uris: image -> row of the table, or "infrared" and "visible" -> data URI.
        note: how they were chosen and made.
    """

    uris: Mapping[str, Mapping[str, str]]
    note: str


def extremes(table: Table, variants: Sequence[Variant]) -> Extremes:
    """Return the images each loss is best and worst on by each metric, scores averaged over seeds."""
    found: Extremes = {}
    for column in table.columns:
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


def choose(images: Sequence[str], found: Extremes, count: int = PICTURES) -> list[str]:
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
    """Return the pictures of the first seed of each loss, beside their sources, as data URIs."""
    order = [row.name for row in table.losses]
    pictures: dict[str, dict[str, Image.Image]] = {}
    for image in choose(table.images, found):
        shown = dict(sources(image)) if sources else {}
        for variant in sorted(variants, key=lambda variant: order.index(variant.name)):
            if (picture := fused_picture(variant, image)) is not None:
                shown[variant.name] = picture
        if shown:
            pictures[image] = shown
    uris: dict[str, dict[str, str]] = {}
    for side, quality in LADDER:
        uris, left = {}, budget
        for image, shown in pictures.items():
            encoded = {name: _uri(picture, side, quality) for name, picture in shown.items()}
            left -= sum(map(len, encoded.values()))
            if left < 0:
                break
            uris[image] = encoded
        else:
            break
    note = (
        f"{len(uris)} of {len(table.images)} test images: those most often among the best or worst, and "
        f"others evenly; first seed of each loss; at most {side} px wide or high, WebP of quality {quality}, "
        "so that the finest noise is not all here"
    )
    return Album(uris, note)


def fused_picture(variant: Variant, image: str) -> Image.Image | None:
    """Return what the first seed of a loss made of a test image, in colour if it was saved.

    None if neither was.
    """
    test = variant.runs[0].folder / "test"
    for kind in ("color", "fused"):
        path = test / kind / f"{image}.png"
        if path.is_file():
            return Image.fromarray(
                to_bytes(to_unit(read_image_in(path))).permute(1, 2, 0).squeeze(-1).numpy()
            )
    return None


def _uri(picture: Image.Image, side: int, quality: int) -> str:
    scaled = picture.convert("RGB")
    scaled.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = BytesIO()
    scaled.save(out, format="WEBP", quality=quality, method=4)
    return f"data:image/webp;base64,{b64encode(out.getvalue()).decode()}"
