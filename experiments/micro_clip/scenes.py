"""Scenes to draw images from, and the batches of images and captions drawn from them."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
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
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.data import IterableDataset

from clipfuse.data.folder import PairedFolder
from clipfuse.data.synthetic.labels import LABELS
from clipfuse.data.synthetic.source import VERSION, render, sample_scene
from clipfuse.ops.color import rgb_to_luma_chroma
from clipfuse.ops.depth import to_unit
from clipfuse.ops.seeding import derived_seed
from clipfuse.types import LabelSet

PARTS = {"train": 0, "val": 1, "test": 2}
# How often each image of a scene is drawn; several of one scene in a batch differ in nothing else.
PICTURES = {
    "infrared": 4,
    "visible": 4,
    "ideal": 7,
    "average": 5,
    "maximum": 7,
    "detail": 6,
    "target": 4,
    "odd": 2,
}
THINGS = ("person", "car", "bike")
"""Objects whose presence captions claim; the value of a pixel in `Scene.things` is the place here plus 1."""
LEAST_SHARE = {"person": 0.004, "car": 0.008, "bike": 0.006}  # of the pixels, to be said to be seen
REAL = ("roadscene", "msrs")
DATA = Path(__file__).parents[2] / "conf" / "data"
Picture = tuple[Floats, dict[str, str]]


@dataclass(frozen=True)
class Scene:
    """One registered pair: uint8 (H, W) planes; `mask`, `reference` and `things` where the truth is known."""

    infrared: np.ndarray
    visible: np.ndarray
    mask: np.ndarray | None = None
    reference: np.ndarray | None = None
    weather: str | None = None
    things: np.ndarray | None = None


def _luma(rgb: Tensor) -> np.ndarray:
    luma, _ = rgb_to_luma_chroma(to_unit(rgb))
    return (luma[0] * 255).round().byte().numpy()


def _render(index: int, seed: int, size: int) -> np.ndarray:
    """Return (5, S, S) uint8: infrared, visible luma, mask, reference, things."""
    pair = render(seed, index, size)
    assert pair.target_mask is not None
    assert pair.reference is not None
    mask = pair.target_mask[0].byte().numpy() * 255
    assert pair.classes is not None
    things = _things(pair.classes.numpy(), LABELS)
    return np.stack([pair.infrared[0].numpy(), _luma(pair.visible), mask, pair.reference[0].numpy(), things])


def _things(classes: np.ndarray, labels: LabelSet) -> np.ndarray:
    """Return the plane of `THINGS` of a map of classes."""
    places = np.zeros(256, np.uint8)
    for place, name in enumerate(THINGS, 1):
        if name in labels.names:
            places[labels.names.index(name)] = place
    return places[classes]


def synthetic_scenes(
    part: str, count: int, size: int = 192, seed: int = 0, cache: str | None = None
) -> list[Scene]:
    """Return rendered scenes of a part of `SyntheticPairs`; `cache` is a folder to keep them in."""
    indices = [3 * k + PARTS[part] for k in range(count)]
    path = Path(cache or ".") / f"scenes_v{VERSION}_5_{part}_{seed}_{size}_{count}.npy"
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
        Scene(five[0], five[1], five[2], five[3], name, five[4])
        for five, name in zip(planes, weathers, strict=True)
    ]


def real_scenes(name: str, parts: Sequence[str]) -> list[Scene]:
    """Return the pairs of parts of a real data set below $CLIPFUSE_DATA.

    Args:
        name: roadscene, with the shipped split; or msrs, with its folders train and test; of the former "val"
            is cut by whole scenes. Its persons are targets, beside what `recipe.hot` finds.
        parts: train, val, test.
    """
    if "CLIPFUSE_DATA" not in os.environ:
        raise SystemExit(f"set CLIPFUSE_DATA to the folder that holds {name}/, or data.{name} to false")
    settings = OmegaConf.to_container(OmegaConf.load(DATA / f"{name}.yaml"))
    assert isinstance(settings, dict)
    given = {key: value for key, value in settings.items() if key in ("split", "scenes", "labels")}
    source = PairedFolder(f"{os.environ['CLIPFUSE_DATA']}/{name}", **given)
    found, labels = [], source.labels()
    for sample in (sample for part in parts for sample in source.parts()[part]):
        pair = source.load(sample)
        scene = Scene(pair.infrared[0].numpy(), _luma(pair.visible))
        if labels is not None and pair.classes is not None:
            things = _things(pair.classes.numpy(), labels)
            warm = recipe.hot(scene.infrared.astype(np.float32) / 255, 2)
            mask = np.maximum(255 * (things == 1), np.rint(255 * warm)).astype(np.uint8)
            scene = replace(scene, mask=mask, things=things, weather=_group(labels, sample))
        found.append(scene)
    return found


def _group(labels: LabelSet, sample: str) -> str | None:
    return next((name for name, pattern in labels.groups if re.search(pattern, sample)), None)


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
    for name in ("infrared", "visible", "mask", "reference", "things"):
        plane = getattr(scene, name)
        if plane is not None:
            cut = np.ascontiguousarray(plane[top : top + high, left : left + wide][:, ::mirror])
            planes[name] = cut if name == "things" else resize(cut.astype(np.float32) / 255, size)
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


def presence(things: np.ndarray) -> dict[str, str]:
    """Return of each of `THINGS` whether it is seen: yes, no; left out where too little of it is seen."""
    found = {}
    for place, name in enumerate(THINGS, 1):
        share = float((things == place).mean())
        if share == 0 or share > LEAST_SHARE[name]:
            found[name] = "yes" if share else "no"
    return found


def picture(
    name: str, planes: Mapping[str, Floats], scale: float, weather: str | None, rng: Draw, final: int
) -> Picture:
    """Make one image of a scene: a band or a fusion, through some camera, perhaps with a defect."""
    infrared, visible = planes["infrared"], planes["visible"]
    mask = recipe.soften(planes["mask"], 0.5) if "mask" in planes else recipe.hot(infrared, scale)
    said: dict[str, str] = {"band": name if name in ("infrared", "visible") else "fused"}
    clean = 0.5 if name in ("infrared", "visible", "ideal") else 0.7
    quality = "clean" if rng.random() < clean else str(rng.choice(recipe.QUALITIES))
    plain = rng.random() < 0.5  # a fusion of the bands as they are, seen as it is
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
            if not plain:
                infrared, visible = (recipe.camera(band, rng, scale, 0.5) for band in (infrared, visible))
            image = recipe.fuse(name, infrared, visible, mask, rng, scale)
    if said["band"] != "fused" or not plain:
        image = recipe.camera(image, rng, scale, 0.4 if said["band"] == "fused" else 1)
    if quality not in ("clean", "ghost"):
        image = recipe.spoil(quality, image, rng, scale)
        if rng.random() < 0.3:
            image = recipe.compress(image, int(rng.uniform(50, 96)))
    image = resize(image, final)
    said["quality"] = quality
    ordinary = image.std() > 0.11 and 0.14 < image.mean() < 0.8
    if name == "ideal":  # of a night it is dark
        ordinary = image.std() > 0.06 and 0.04 < image.mean() < 0.8
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
    return image, said | (presence(planes["things"]) if "things" in planes else {})


class Batches(IterableDataset):
    """Endless batches, each a function of (seed, step) alone.

    Yields:
        images (B, 1, S, S) uint8; tokens (C, L), cut after the longest text; truth (B, C) and labels (B, A)
            as in `captions`.
    """

    def __init__(
        self, domains: Mapping[str, Sequence[Scene]], config: Mapping[str, Any], start: int = 0
    ) -> None:
        self.domains, self.start = {name: scenes for name, scenes in domains.items() if scenes}, start
        self.seed, self.train, self.final = config["seed"], config["train"], config["preprocess"]["size"]
        self.share = config["data"]["share"]
        self.tokenize = open_clip.get_tokenizer("ViT-B-32")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        for step in range(self.start, self.train["steps"]):
            rng = np.random.default_rng(derived_seed(self.seed, "batch", step))
            pairs = [pair for _ in range(self.train["scenes"]) for pair in self.variants(rng)]
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

    def variants(self, rng: Draw) -> list[Picture]:
        """Return several images of one crop of a random scene."""
        shares = np.array([self.share[name] for name in self.domains])
        scenes = self.domains[str(rng.choice([*self.domains], p=shares / shares.sum()))]
        scene = scenes[int(rng.integers(len(scenes)))]
        planes, scale = crop(scene, rng, self.final)
        weights = np.array([*PICTURES.values()]) / sum(PICTURES.values())
        names = rng.choice([*PICTURES], self.train["variants"], replace=False, p=weights)
        return [picture(str(name), planes, scale, scene.weather, rng, self.final) for name in names]
