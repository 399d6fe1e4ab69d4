"""How often the measured words about a source are right, on sources and on what was given one defect.

python experiments/autofuse/degradations.py --data DIR
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from clipfuse.data.folder import PairedFolder
from clipfuse.data.pairs import PairSource
from clipfuse.data.synthetic import SyntheticPairs
from clipfuse.ops.color import rgb_to_luma_chroma
from clipfuse.ops.defects import bad_pictures
from clipfuse.ops.degradations import DEGRADATIONS, degradations
from clipfuse.ops.depth import to_unit
from clipfuse.ops.seeding import derived_seed


def spoil(kind: str, image: Tensor, seed: int) -> Tensor:
    """Give an image a defect of a random strength.

    Blur, noise and low contrast are those of `bad_pictures`; the others those of the bundled CLIP's recipe
    (`experiments/micro_clip/recipe.py`): JPEG of quality 3 to 12, stripes of a spread of 0.06 to 0.2, means
    of 0.04 to 0.11, and 0.85 to 1.1 before the clipping.

    Args:
        kind: one of `DEGRADATIONS`.
        image: (1, 1, H, W) in [0, 1].
        seed: of the strength and of all that is random.
    """
    if kind in ("blur", "noise", "low_contrast"):
        return bad_pictures([kind], image, image, image, [seed])
    rng = np.random.default_rng(seed)
    if kind == "blocks":
        levels = (image[0, 0].numpy() * 255).round().astype(np.uint8)
        options = [cv2.IMWRITE_JPEG_QUALITY, int(rng.uniform(3, 12))]
        plane = cv2.imdecode(cv2.imencode(".jpg", levels, options)[1], cv2.IMREAD_GRAYSCALE)
        return torch.from_numpy(plane)[None, None].to(image) / 255
    if kind == "stripes":
        height, width = image.shape[-2:]
        lines = rng.standard_normal((height, 1) if rng.random() < 0.5 else (1, width)) * rng.uniform(
            0.06, 0.2
        )
        return (image + torch.from_numpy(lines).to(image)).clamp(0, 1)
    mean = image.mean()
    if kind == "under":
        return (image * (rng.uniform(0.04, 0.11) / mean.clamp(min=0.05))).clamp(0, 1)
    return ((image - mean) * rng.uniform(1.2, 2) + rng.uniform(0.85, 1.1)).clamp(0, 1)


def rates(images: list[Tensor], name: str) -> Mapping[str, tuple[float, float, float]]:
    """Return three rates by kind: how often it is found, others are found anew, and it is found on sources.

    Args:
        images: sources, (1, 1, H, W) each.
        name: of the set, for the seeds.
    """
    before = torch.cat([degradations(image) for image in images])
    table = {}
    for index, kind in enumerate(DEGRADATIONS):
        after = torch.cat(
            [
                degradations(spoil(kind, image, derived_seed(name, kind, number)))
                for number, image in enumerate(images)
            ]
        )
        new = after & ~before
        new[:, index] = False
        found = (after[:, index], new.any(dim=1), before[:, index])
        table[kind] = tuple(float(each.float().mean()) for each in found)
    return table  # type: ignore[return-value]


def sources(source: PairSource, parts: Sequence[str], count: int) -> dict[str, list[Tensor]]:
    """Return the images of `count` pairs of some parts, evenly spread, by band; (1, 1, H, W) in [0, 1]."""
    names = [name for part in parts for name in source.parts()[part]]
    pairs = [source.load(name) for name in names[:: max(1, len(names) // count)][:count]]
    found: dict[str, list[Tensor]] = {"infrared": [], "visible": []}
    for pair in pairs:
        for band, images in found.items():
            plane = to_unit(getattr(pair, band)).float()
            images.append((rgb_to_luma_chroma(plane)[0] if len(plane) == 3 else plane)[None])
    return found


def main() -> None:
    """Print one table per set and band."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with msrs, msrs_original, roadscene")
    data: Path = parser.parse_args().data
    sets = {
        "rendered": sources(SyntheticPairs(test=100, size=224), ["test"], 100),
        "msrs": sources(PairedFolder(str(data / "msrs")), ["train"], 100),
        "msrs_original": sources(PairedFolder(str(data / "msrs_original")), ["train", "val", "test"], 4),
        "roadscene": sources(PairedFolder(str(data / "roadscene"), split="roadscene"), ["train"], 100),
    }
    print("| set | band | images |", *(f" {kind} |" for kind in DEGRADATIONS))
    print("|---|---|---|", *("---|" for _ in DEGRADATIONS), sep="")
    for name, bands in sets.items():
        for band, images in bands.items():
            cells = [
                f" {100 * found:.0f} / {100 * wrong:.0f} / {100 * plain:.0f} |"
                for found, wrong, plain in rates(images, name + band).values()
            ]
            print(f"| {name} | {band} | {len(images)} |", *cells)


if __name__ == "__main__":
    main()
