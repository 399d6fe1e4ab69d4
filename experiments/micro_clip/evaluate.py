"""What the micro CLIP tells apart by text alone, on scenes it never saw: prints markdown tables.

    python -m experiments.micro_clip.evaluate [folder of a model] [--val]

Nothing is fitted here: an image goes to the text with the greatest cosine. `--val` looks at the validation
parts alone, by which the recipe was chosen; without it the scenes are the held-out ones of the README.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from experiments.micro_clip import recipe
from experiments.micro_clip.recipe import Floats
from experiments.micro_clip.scenes import REAL, Scene, crop, presence, real_scenes, resize, synthetic_scenes
from torch import Tensor, nn
from torch.nn import functional as F

from clipfuse.clip.micro_files import load_micro

CLEAR = "a clear image with detailed background and salient objects"
BANDS = {"infrared": "an infrared image", "visible": "a visible gray image"}
DEFECTS = {
    "clean": "a clear image",
    "blur": "a blurry image",
    "noise": "a noisy image",
    "low contrast": "a low contrast image",
}
FUSIONS = {"ideal": CLEAR, "average": "the plain average of infrared and visible"}
KINDS = {
    **FUSIONS,
    "maximum": "the pixelwise maximum of both bands",
    "detail": "a fused image with detailed background but weak targets",
    "target": "a fused image with salient targets but a poor background",
}
PARAPHRASES: dict[str, list[dict[str, str]]] = {
    "band": [
        {
            "infrared": "a gray shot taken by the infrared camera",
            "visible": "a gray shot taken by the visible camera",
        },
        {"infrared": "a thermal view of the scene", "visible": "an ordinary view of the scene"},
        {"infrared": "heat from a camera, in gray", "visible": "light from a camera, in gray"},
    ],
    "defect": [
        {
            "clean": "a crisp frame in focus, without noise",
            "blur": "a frame that is soft and smeared",
            "noise": "a frame with much grain",
            "low contrast": "a frame that is pale and faded",
        },
        {
            "clean": "a picture that is sharp and good",
            "blur": "a picture that is unsharp, with smeared edges",
            "noise": "a picture that is speckled and noisy",
            "low contrast": "a picture that is flat, with little contrast",
        },
    ],
    "kind": [
        {
            "ideal": "a good fusion with clear background and striking objects",
            "average": "a fused frame, the mean of both bands",
            "maximum": "a fused frame, the maximum of both bands",
            "detail": "a fused frame of fine detail, the hot targets are hidden",
            "target": "a fused frame of bright hot targets, the background is smooth",
        },
        {
            "ideal": "both bands well fused, harmonious and clear",
            "average": "both bands fused by averaging",
            "maximum": "both bands fused by maximum selection",
            "detail": "both bands fused, with the texture but not the targets",
            "target": "both bands fused, with the targets but not the texture",
        },
    ],
}
"""Texts that no caption had, of words that captions had: what the texts above stand for, said otherwise."""
OBJECTS = {
    "person": ("an image with people", "an image without people"),
    "car": ("an image with cars", "an image without cars"),
    "bike": ("an image with bikes", "an image without bikes"),
}
HOURS = {"day": "a visible image by day", "night": "a visible image by night"}
Planes = dict[str, Floats]


class Judge:
    """The model with its preprocessing: images and texts to unit vectors."""

    def __init__(self, folder: Path | None = None) -> None:
        self.model, self.config = load_micro(folder)
        self.model.requires_grad_(False)
        pre = self.config["preprocess"]
        self.size, self.mean, self.std = pre["size"], pre["mean"][0], pre["std"][0]
        self.tokenize = open_clip.get_tokenizer("ViT-B-32")

    def images(self, pictures: Tensor) -> Tensor:
        """Encode (N, 1, S, S) images in [0, 1], differentiably."""
        encode: nn.Module = self.model.get_submodule("visual")
        return F.normalize(encode(((pictures - self.mean) / self.std).expand(-1, 3, -1, -1)), dim=-1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Encode texts."""
        encode: Callable[[Tensor], Tensor] = self.model.encode_text  # type: ignore[assignment]
        with torch.no_grad():
            return F.normalize(encode(self.tokenize(list(texts))), dim=-1)

    def choose(self, pictures: Sequence[Floats], texts: Sequence[str]) -> np.ndarray:
        """Return for each image the index of the nearest text."""
        words, found = self.texts(texts), list[Tensor]()
        for chunk in torch.from_numpy(np.stack(pictures)[:, None]).split(64):
            with torch.no_grad():
                found.append((self.images(chunk) @ words.T).argmax(1))
        return torch.cat(found).numpy()


def views(scenes: Sequence[Scene], size: int, crops: int, seed: int = 0) -> list[Planes]:
    """Return of each scene the whole, squeezed to a square, and some random crops, at the model's size."""
    found = []
    for index, scene in enumerate(scenes):
        rng = np.random.default_rng([seed, index])
        known = {name: getattr(scene, name) for name in ("infrared", "visible", "mask", "reference")}
        cuts = [{name: plane.astype(np.float32) / 255 for name, plane in known.items() if plane is not None}]
        cuts[0] |= {} if scene.things is None else {"things": scene.things}
        cuts += [crop(scene, rng, size, 0.5)[0] for _ in range(crops)]
        found += [
            {name: plane if name == "things" else resize(plane, size) for name, plane in planes.items()}
            for planes in cuts
        ]
    return found


def steady_ideal(planes: Planes) -> Floats:
    """Return the reference where there is one, else the recipe's fusion with the same draws for all."""
    if "reference" in planes:
        return planes["reference"]
    mask = recipe.hot(planes["infrared"], 1)
    made = recipe.ideal(planes["infrared"], planes["visible"], mask, np.random.default_rng(1), 1)
    return np.clip(made, 0, 1)


def fusions(planes: Planes) -> Planes:
    """Return one fusion of each kind."""
    infrared, visible = planes["infrared"], planes["visible"]
    mask = planes["mask"] if "mask" in planes else recipe.hot(infrared, 1)
    made = {"ideal": steady_ideal(planes), "average": (infrared + visible) / 2}
    for kind in ("maximum", "detail", "target"):
        made[kind] = recipe.fuse(kind, infrared, visible, mask, np.random.default_rng(1), 1).clip(0, 1)
    return made


def defects(image: Floats, rng: np.random.Generator) -> Planes:
    """Return an image clean and with three plain defects, not drawn as in training."""
    grain = rng.standard_normal(image.shape).astype(np.float32)
    flat = (image - image.mean()) * np.float32(rng.uniform(0.15, 0.3)) + np.float32(rng.uniform(0.3, 0.6))
    noisy = np.clip(image + np.float32(rng.uniform(0.07, 0.15)) * grain, 0, 1)
    return {
        "clean": image,
        "blur": recipe.soften(image, rng.uniform(1.5, 3)),
        "noise": noisy,
        "low contrast": flat,
    }


def confusion(title: str, counts: Mapping[str, np.ndarray], columns: Sequence[str]) -> float:
    """Print a table of counts by truth (rows) and answer (columns); return the mean of the rows' shares."""
    print(f"\n{title}\n\n| truth | {' | '.join(columns)} | right |\n|---|{'---|' * (len(columns) + 1)}")
    shares = []
    for name, answers in counts.items():
        row = np.bincount(answers, minlength=len(columns))
        shares.append(row[columns.index(name)] / row.sum())
        print(f"| {name} | {' | '.join(map(str, row))} | {100 * shares[-1]:.1f} % |")
    print(f"\nmean {100 * np.mean(shares):.1f} %")
    return float(np.mean(shares))


def ordinary(image: Floats) -> bool:
    """Return whether an image as it comes is neither very dark, very bright nor nearly flat."""
    return image.std() > 0.11 and 0.14 < image.mean() < 0.8


def report(judge: Judge, domain: str, found: Sequence[Planes], each: int) -> dict[str, float]:
    """Print the tables of one domain, of whose views every `each`-th is a whole image; return the bars."""
    bands = {name: judge.choose([v[name] for v in found], [*BANDS.values()]) for name in BANDS}
    entire = {name: answers[::each] for name, answers in bands.items()}
    figures = {"band, whole images": confusion(f"**{domain}, band, whole images**", entire, [*BANDS])}
    figures["band, with crops"] = confusion(f"**{domain}, band, with crops**", bands, [*BANDS])
    rng = np.random.default_rng(0)
    seen = [[recipe.camera(v[name], rng, 1) for v in found] for name in BANDS]
    other = {name: judge.choose(images, [*BANDS.values()]) for name, images in zip(BANDS, seen, strict=True)}
    figures["band, other camera"] = confusion(f"**{domain}, band, through random cameras**", other, [*BANDS])
    whole = [image for v in found for image in (v["infrared"], v["visible"], steady_ideal(v))]
    for title, images in (("", [i for i in whole if ordinary(i)]), (" (all images)", whole)):
        rng = np.random.default_rng(0)
        spoilt = [defects(image, rng) for image in images]
        answers = {name: judge.choose([v[name] for v in spoilt], [*DEFECTS.values()]) for name in DEFECTS}
        figures[f"defect{title}"] = confusion(f"**{domain}, defect{title}**", answers, [*DEFECTS])
    made = [fusions(v) for v in found]
    two = {name: judge.choose([v[name] for v in made], [*FUSIONS.values()]) for name in FUSIONS}
    figures["ideal or average"] = confusion(f"**{domain}, ideal or average**", two, [*FUSIONS])
    all_kinds = {name: judge.choose([v[name] for v in made], [*KINDS.values()]) for name in KINDS}
    figures["fusion of five"] = confusion(f"**{domain}, kind of fusion**", all_kinds, [*KINDS])
    asked = {"band": (bands, found), "defect": (answers, spoilt), "kind": (all_kinds, made)}
    for question, (values, planes) in asked.items():
        trained = rate(values)
        others = [
            rate({truth: judge.choose([v[truth] for v in planes], [*texts.values()]) for truth in values})
            for texts in PARAPHRASES[question]
        ]
        each_text = ", ".join(f"{100 * other:.1f}" for other in others)
        print(f"\n{question} by unseen texts: {each_text} %; by trained ones {100 * trained:.1f} %")
        figures[f"{question}: unseen texts / trained"] = float(np.mean(others)) / trained
    return figures | presence_report(judge, found, made)


def rate(answers: Mapping[str, np.ndarray]) -> float:
    """Return the mean over the truths of the share of right answers, which name the place of the truth."""
    return float(np.mean([(found == place).mean() for place, found in enumerate(answers.values())]))


def presence_report(judge: Judge, found: Sequence[Planes], made: Sequence[Planes]) -> dict[str, float]:
    """Return for each object how often its presence in an ideal fusion is found, balanced over yes and no."""
    figures = {}
    for name, texts in OBJECTS.items():
        facts = [presence(v["things"]).get(name) if "things" in v else None for v in found]
        answers = {
            truth: judge.choose(
                [m["ideal"] for m, fact in zip(made, facts, strict=True) if fact == truth], texts
            )
            for truth in ("yes", "no")
            if facts.count(truth) >= 10
        }
        if len(answers) == 2:
            figures[f"{name} or none"] = rate(answers)
    return figures


def hours(judge: Judge, scenes: Sequence[Scene]) -> float:
    """Return how often day and night are told apart by whole visible images."""
    whole = views(scenes, judge.size, 0)
    images = {
        hour: [v["visible"] for v, scene in zip(whole, scenes, strict=True) if scene.weather == hour]
        for hour in HOURS
    }
    return rate({hour: judge.choose(seen, [*HOURS.values()]) for hour, seen in images.items()})


def main(folder: Path | None, validation: bool) -> None:
    torch.set_num_threads(1)
    judge = Judge(folder)
    parts = {
        "roadscene": ["val"] if validation else ["val", "test"],
        "msrs": ["val" if validation else "test"],
    }
    scenes = {name: real_scenes(name, parts[name]) for name in REAL}
    scenes["synthetic"] = synthetic_scenes("val" if validation else "test", 60)
    columns = {}
    for name, crops in (("roadscene", 3), ("msrs", 0 if not validation else 1), ("synthetic", 1)):
        found = views(scenes[name], judge.size, crops)
        columns[name] = report(judge, name, found, 1 + crops)
    columns["msrs"]["day or night"] = hours(judge, scenes["msrs"])
    print(f"\n| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name in dict.fromkeys(row for column in columns.values() for row in column):
        cells = [f"{100 * column[name]:.1f} %" if name in column else "" for column in columns.values()]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    given = [word for word in sys.argv[1:] if word != "--val"]
    main(Path(given[0]) if given else None, "--val" in sys.argv)
