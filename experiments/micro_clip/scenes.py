"""Scenes to draw images from, and the batches of images and captions drawn from them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import open_clip
import torch
from experiments.micro_clip import recipe
from experiments.micro_clip.captions import DEFAULTS, draw, labels, truth
from experiments.micro_clip.recipe import Draw, Floats
from torch import Tensor
from torch.utils.data import IterableDataset

from clipfuse.data.folder import PairedFolder
from clipfuse.data.synthetic.source import VERSION, render, sample_scene
from clipfuse.ops.color import rgb_to_luma_chroma
from clipfuse.ops.depth import to_unit
from clipfuse.ops.seeding import derived_seed

PARTS = {"train": 0, "val": 1, "test": 2}
# How often each image of a scene is drawn; several of one scene in a batch differ in nothing else.
PICTURES = {
    "infrared": 6,
    "visible": 6,
    "ideal": 8,
    "average": 4,
    "maximum": 2.5,
    "detail": 1.5,
    "target": 1.5,
    "odd": 2,
}
LATER = PICTURES | {"maximum": 6, "detail": 2.5}  # after the restart: more of what is hard to tell from ideal
Picture = tuple[Floats, dict[str, str]]


@dataclass(frozen=True)
class Scene:
    """One registered pair: uint8 (H, W) planes; `mask` and `reference` where the truth is known."""

    infrared: np.ndarray
    visible: np.ndarray
    mask: np.ndarray | None = None
    reference: np.ndarray | None = None
    weather: str | None = None


def _luma(rgb: Tensor) -> np.ndarray:
    luma, _ = rgb_to_luma_chroma(to_unit(rgb))
    return (luma[0] * 255).round().byte().numpy()


def _render(index: int, seed: int, size: int) -> np.ndarray:
    """Return (4, S, S) uint8: infrared, visible luma, mask, reference."""
    pair = render(seed, index, size)
    assert pair.target_mask is not None
    assert pair.reference is not None
    mask = pair.target_mask[0].byte().numpy() * 255
    return np.stack([pair.infrared[0].numpy(), _luma(pair.visible), mask, pair.reference[0].numpy()])


def synthetic_scenes(
    part: str, count: int, size: int = 192, seed: int = 0, cache: str | None = None
) -> list[Scene]:
    """Return rendered scenes of a part of `SyntheticPairs`; `cache` is a folder to keep them in."""
    indices = [3 * k + PARTS[part] for k in range(count)]
    path = Path(cache or ".") / f"scenes_v{VERSION}_{part}_{seed}_{size}_{count}.npy"
    if cache and path.exists():
        planes = np.load(path, mmap_mode="r")
    else:
        with ProcessPoolExecutor() as pool:
            planes = np.stack(list(pool.map(partial(_render, seed=seed, size=size), indices, chunksize=16)))
        if cache:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path.with_suffix(".draft.npy"), planes)
            path.with_suffix(".draft.npy").replace(path)
    weathers = [sample_scene(seed, index, size)[0].weather.name for index in indices]
    return [
        Scene(four[0], four[1], four[2], four[3], name) for four, name in zip(planes, weathers, strict=True)
    ]


def real_scenes(parts: Sequence[str]) -> list[Scene]:
    """Return the RoadScene pairs of parts of the shipped split, from $CLIPFUSE_DATA/roadscene."""
    if "CLIPFUSE_DATA" not in os.environ:
        raise SystemExit("set CLIPFUSE_DATA to the folder that holds roadscene/, or data.real to false")
    source = PairedFolder(f"{os.environ['CLIPFUSE_DATA']}/roadscene", split="roadscene")
    pairs = [source.load(name) for part in parts for name in source.parts()[part]]
    return [Scene(pair.infrared[0].numpy(), _luma(pair.visible)) for pair in pairs]


def crop(scene: Scene, rng: Draw, final: int, least: float = 0.4) -> tuple[dict[str, Floats], float]:
    """Cut one random rectangle from all planes, squeeze it to a square, and mirror it half of the time.

    Returns:
        The planes in [0, 1], 1 to 1.4 times `final` pixels wide, and their scale.
    """
    height, width = scene.infrared.shape
    side, stretch = min(height, width) * rng.uniform(least, 1), np.exp(rng.uniform(-0.2, 0.25))
    high, wide = min(int(side / stretch), height), min(int(side * stretch), width)
    top, left = rng.integers(height - high + 1), rng.integers(width - wide + 1)
    size = final if rng.random() < 0.6 else int(final * rng.uniform(1, 1.4))
    mirror = 1 - 2 * int(rng.random() < 0.5)
    planes = {}
    for name in ("infrared", "visible", "mask", "reference"):
        plane = getattr(scene, name)
        if plane is not None:
            cut = np.ascontiguousarray(plane[top : top + high, left : left + wide][:, ::mirror])
            planes[name] = resize(cut.astype(np.float32) / 255, size)
    return planes, size / final


def resize(image: Floats, size: int) -> Floats:
    """Resize to a square, antialiased."""
    way = cv2.INTER_AREA if image.shape[0] > size else cv2.INTER_CUBIC
    return np.clip(cv2.resize(image, (size, size), interpolation=way), 0, 1)


def salience(image: Floats, mask: Floats, scale: float) -> str | None:
    """Return whether targets stand out from the ring around them: high, low, none; None between."""
    inside = mask > 0.5
    share = float(inside.mean())
    if share < 0.004:
        return "none" if mask.max() < 0.5 else None
    around = cv2.dilate(inside.astype(np.uint8), np.ones((int(7 * scale) * 2 + 1,) * 2, np.uint8)) - inside
    ring = float(image[around > 0].mean()) if around.any() else float(image.mean())
    contrast = (float(image[inside].mean()) - ring) / (ring + 16 / 255)
    return "high" if contrast > 0.5 else "low" if contrast < 0.1 else None


def picture(
    name: str, planes: Mapping[str, Floats], scale: float, weather: str | None, rng: Draw, final: int
) -> Picture:
    """Make one image of a scene: a band or a fusion, through some camera, perhaps with a defect."""
    infrared, visible = planes["infrared"], planes["visible"]
    mask = recipe.soften(planes["mask"], 0.5) if "mask" in planes else recipe.hot(infrared, scale)
    if name in ("detail", "target") and mask.mean() < 0.006:
        name = "average"  # without targets these two are nothing special
    said: dict[str, str] = {"band": name if name in ("infrared", "visible") else "fused"}
    quality = "clean" if rng.random() < 0.5 else str(rng.choice(recipe.QUALITIES))
    if said["band"] != "fused":
        said["kind"] = "none"
        image = visible if name == "visible" else infrared
        if name == "infrared":
            said["polarity"] = "cold" if rng.random() < 0.04 else "hot"
            image = 1 - image if said["polarity"] == "cold" else image
            if rng.random() < 0.1:  # cameras that equalise
                flat = cv2.createCLAHE(rng.uniform(1, 3), (4, 4)).apply((image * 255).astype(np.uint8))
                image = flat.astype(np.float32) / 255
            if rng.random() < 0.25:
                image = recipe.soften(image, scale * rng.uniform(0.3, 0.9))
    else:
        said["kind"] = name
        if quality == "clean" and rng.random() < 0.12:
            quality, infrared = "ghost", recipe.shift(infrared, rng, scale)
        if name == "ideal" and "reference" in planes and quality != "ghost" and rng.random() < 0.75:
            image = planes["reference"]
        else:
            infrared, visible = (recipe.camera(band, rng, scale, 0.5) for band in (infrared, visible))
            image = recipe.fuse(name, infrared, visible, mask, rng, scale)
    image = recipe.camera(image, rng, scale, 0.4 if said["band"] == "fused" else 1)
    if quality not in ("clean", "ghost"):
        image = recipe.spoil(quality, image, rng, scale)
        if rng.random() < 0.3:
            image = recipe.compress(image, int(rng.uniform(50, 96)))
    image = resize(image, final)
    said["quality"] = quality
    ordinary = image.std() > 0.11 and 0.14 < image.mean() < 0.8
    if quality == "clean" and (not ordinary or said["kind"] not in ("none", "ideal")):
        del said["quality"]  # nobody would call it clear, nor is it spoilt
    if weather and said["band"] != "infrared":
        said["weather"] = weather
    if (
        "mask" in planes
        and said.get("polarity") != "cold"
        and (found := salience(image, resize(planes["mask"], final), 1))
    ):
        said["salience"] = found
    return image, said


class Batches(IterableDataset):
    """Endless batches, each a function of (seed, step) alone.

    Yields:
        images (B, 1, S, S) uint8; tokens (C, L), cut after the longest text; truth (B, C) and labels (B, A)
            as in `captions`.
    """

    def __init__(
        self, synthetic: Sequence[Scene], real: Sequence[Scene], config: Mapping[str, Any], start: int = 0
    ) -> None:
        self.synthetic, self.real, self.start = synthetic, real, start
        self.seed, self.train, self.final = config["seed"], config["train"], config["preprocess"]["size"]
        share = config["data"]["real_share"]
        self.real_share = share if synthetic and real else float(bool(real))
        self.tokenize = open_clip.get_tokenizer("ViT-B-32")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        for step in range(self.start, self.train["steps"]):
            rng = np.random.default_rng(derived_seed(self.seed, "batch", step))
            shares = PICTURES if step < self.train["restart"] else LATER
            pairs = [pair for _ in range(self.train["scenes"]) for pair in self.variants(rng, shares)]
            images, said = [image for image, _ in pairs], [facts for _, facts in pairs]
            chosen = rng.permutation(len(said))[: self.train["captions"] - 2]
            captions = [draw(said[i], rng) for i in chosen]
            captions += [DEFAULTS[i] for i in rng.choice(len(DEFAULTS), 2, replace=False)]
            tokens = self.tokenize([caption.text for caption in captions])
            yield (
                torch.from_numpy(np.rint(np.stack(images)[:, None] * 255).astype(np.uint8)),
                tokens[:, : int(tokens.argmax(1).max()) + 1],
                torch.from_numpy(truth(said, captions)),
                torch.from_numpy(labels(said)),
            )

    def variants(self, rng: Draw, shares: Mapping[str, float] = PICTURES) -> list[Picture]:
        """Return several images of one crop of a random scene."""
        scenes = self.real if rng.random() < self.real_share else self.synthetic
        scene = scenes[int(rng.integers(len(scenes)))]
        planes, scale = crop(scene, rng, self.final)
        weights = np.array([*shares.values()]) / sum(shares.values())
        names = rng.choice([*shares], self.train["variants"], replace=False, p=weights)
        return [picture(str(name), planes, scale, scene.weather, rng, self.final) for name in names]
