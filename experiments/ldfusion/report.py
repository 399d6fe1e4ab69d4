"""What LDFusion's loss makes of held-out scenes, by its own direction and by scores that asked no CLIP.

    python -m experiments.ldfusion.report FOLDER [FOLDER ...] [--out experiments/ldfusion]

Prints markdown tables of all finished runs in the folders, mean +- standard deviation over seeds, and draws
`panel.jpg` (whole scenes), `close.jpg` (enlarged cut-outs) and `curves.png`. Runs of one variant differ in
nothing but their seed.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, mode
from typing import Any

import torch
from experiments.common import (
    find_finished,
    format_cell,
    format_table,
    fuse,
    make_parser,
    rendered_scenes,
)
from kornia.filters import gaussian_blur2d
from lightning import seed_everything
from PIL import Image, ImageDraw
from torch import Tensor

from clipfuse.clip.encoder import FrozenClip
from clipfuse.comparison.collect import Run
from clipfuse.losses.ldfusion import RELEASES, language_loss
from clipfuse.metrics import FusionMetrics, trivial_fusions
from clipfuse.networks.load import load_backbone
from clipfuse.ops.depth import to_bytes, to_unit
from clipfuse.runs.build import build
from clipfuse.tracking.pictures import draw_panel

METRICS = ("target-contrast", "local-detail", "noise", "SSIM")
DIRECTION, BLURRED, LATTICE = "direction", "direction, blurred", "lattice"
COLUMNS = (*METRICS, DIRECTION, BLURRED, LATTICE)
CLAIMED = ("target-contrast", DIRECTION, BLURRED)
SHOWN = (0, 1, 3)  # scenes of the panel
CLOSE = ((0, 40, 90), (1, 90, 110), (16, 95, 40), (3, 40, 90))  # scene, top, left of the cut-outs
SIDE = 96  # of a cut-out
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#444444")
Scores = dict[str, list[float]]  # per image
Scenes = dict[str, Tensor]


class Judge:
    """Scores fused images of the test scenes, on their 8-bit luma."""

    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes
        self.clip = FrozenClip.load("micro", "micro_1")
        texts = [str(getattr(RELEASES[2025], name)) for name in ("text", "visible_text", "infrared_text")]
        self.texts = self.clip.encode_text(texts).unbind()
        with torch.no_grad():
            bands = [
                self.clip.encode_image(scenes[name], resize="squash") for name in ("visible", "infrared")
            ]
        self.visible, self.infrared = bands

    def __call__(self, fused: Tensor) -> Scores:
        """Return a score per image by the names of `COLUMNS`."""
        fused = to_unit(to_bytes(fused))
        planes = {
            "fused": fused,
            **{name: self.scenes[name] for name in ("infrared", "visible", "target_mask")},
        }
        found: Scores = {name: [] for name in METRICS}
        for index in range(len(fused)):
            collection = FusionMetrics("strict", METRICS)
            collection.update(**{name: plane[index : index + 1] for name, plane in planes.items()})
            means = collection.compute()
            for name in METRICS:
                found[name].append(float(means[name]))
        found[DIRECTION] = self.direction(fused)
        found[BLURRED] = self.direction(gaussian_blur2d(fused, (5, 5), (0.8, 0.8)))
        found[LATTICE] = lattice(fused)
        return found

    @torch.no_grad()
    def direction(self, fused: Tensor) -> list[float]:
        """Return the mean cosine, over both sources, of the way CLIP saw and the way the texts say."""
        seen = self.clip.encode_image(fused, resize="squash")
        return (1 - language_loss(seen, self.visible, self.infrared, *self.texts)).tolist()


def lattice(fused: Tensor) -> list[float]:
    """Return the amplitude of the pattern that repeats every two pixels, in levels of 255, per image.

    Root mean square over 8 x 8 windows of the means of the image times (-1)^x, (-1)^y and (-1)^(x + y).
    """
    sign = torch.tensor([1.0, -1.0]).repeat(fused.shape[-1] // 2)
    rows, columns = sign[:, None], sign[None]
    parts = [
        torch.nn.functional.avg_pool2d(255 * fused * pattern, 8)
        for pattern in (rows.expand(-1, len(sign)), columns.expand(len(sign), -1), rows * columns)
    ]
    energy = torch.stack(parts).square().sum(dim=0).flatten(1).mean(dim=1)
    return energy.sqrt().tolist()


def group_runs(folders: Sequence[Path]) -> dict[str, dict[int, Run]]:
    """Return the finished runs as {variant: {seed: run}}, named by what is unusual in network and loss."""
    found: dict[str, dict[int, Run]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for run in find_finished(folders):
        own = {"smooth": False, **run.config["backbone"], **run.config["loss"]}
        own = {key: value for key, value in own.items() if key not in ("_target_", "clip")}
        own["patch_filter"] = own["patch_filter"] or RELEASES[2025].patch_filter
        key = json.dumps(own, sort_keys=True)
        if (previous := found.setdefault(key, {}).get(run.seed)) is not None:
            raise SystemExit(f"{previous.path} and {run.path} have one variant and seed; name one")
        found[key][run.seed] = run
        settings[key] = own
    usual = {name: mode(json.dumps(own.get(name)) for own in settings.values()) for name in own}
    names = {
        key: ", ".join(f"{name}={value}" for name, value in own.items() if json.dumps(value) != usual[name])
        for key, own in settings.items()
    }
    named = {names[key] or "default": runs for key, runs in found.items()}
    return dict(sorted(named.items(), key=lambda item: (item[0] != "default", item[0])))


def mean(scores: Sequence[float]) -> float:
    """Return the mean over the images for which a score is defined."""
    return fmean(value for value in scores if value == value)


def print_table(table: Mapping[str, Sequence[Scores]]) -> None:
    """Print one row per method; several entries are seeds."""
    rows = [
        [name, *(format_cell([mean(scores[column]) for scores in seeds]) for column in COLUMNS)]
        for name, seeds in table.items()
    ]
    print(*format_table(["image", *COLUMNS], rows), sep="\n")


def print_wins(table: Mapping[str, Sequence[Scores]], variants: Sequence[str], other: str) -> None:
    """Print in how many scenes, of all seeds, each variant beats `other`."""
    rows = []
    for name in variants:
        shares = []
        for column in CLAIMED:
            pairs = [
                (own, theirs)
                for scores in table[name]
                for own, theirs in zip(scores[column], table[other][0][column], strict=True)
                if own == own and theirs == theirs
            ]
            shares.append(f"{100 * fmean(own > theirs for own, theirs in pairs):.0f} %")
        rows.append([name, *shares])
    print(f"\nScenes in which it beats the {other}:\n")
    print(*format_table(["variant", *CLAIMED], rows), sep="\n")


def draw_curves(runs: Mapping[str, Mapping[int, Run]], path: Path) -> None:
    """Draw the terms of training, each a mean over seeds and over a window of a tenth of the run."""
    terms = ("global", "patch", "similarity", "perceptual")
    width, height, left, top = 400, 250, 46, 30
    image = Image.new("RGB", (2 * width, 2 * height + 24), "white")
    pen = ImageDraw.Draw(image)
    for place, term in enumerate(terms):
        lines = {}
        for name, seeds in runs.items():
            read = [run.curves.get(f"train/loss/ldfusion/{term}", []) for run in seeds.values()]
            points = [(row[0][0], fmean(value for _, value in row)) for row in zip(*read, strict=False)]
            window = max(1, len(points) // 10)
            lines[name] = [
                (points[i][0], fmean(value for _, value in points[max(0, i - window + 1) : i + 1]))
                for i in range(window - 1, len(points))
            ]
        drawn = [point for line in lines.values() for point in line]
        low, high = min(value for _, value in drawn), max(value for _, value in drawn)
        most = max(seen for seen, _ in drawn)
        x0, y0 = place % 2 * width + left, place // 2 * height + top
        x1, y1 = x0 + width - left - 16, y0 + height - top - 24
        pen.rectangle((x0, y0, x1, y1), outline="#999999")
        pen.text((x0, y0 - 20), f"{term}, in training, by samples seen", fill="black", font_size=14)
        for value in (low, high):
            y = y1 - (y1 - y0) * (value - low) / (high - low)
            pen.text((x0 - 38, y - 7), f"{value:.2f}", fill="black", font_size=12)
        for seen in (0, most):
            pen.text((x0 + (x1 - x0) * seen / most - 10, y1 + 4), f"{seen:.0f}", fill="black", font_size=12)
        for colour, line in zip(COLOURS, lines.values(), strict=False):
            line = [
                (x0 + (x1 - x0) * seen / most, y1 - (y1 - y0) * (value - low) / (high - low))
                for seen, value in line
            ]
            if line:
                pen.line(line, fill=colour, width=2)
    for index, (colour, name) in enumerate(zip(COLOURS, runs, strict=False)):
        pen.text((left + 200 * index, 2 * height + 4), name, fill=colour, font_size=14)
    image.quantize(32).save(path, optimize=True)


def main(folders: Sequence[Path], out: Path) -> None:
    torch.set_num_threads(1)
    runs = group_runs(folders)
    config = next(iter(next(iter(runs.values())).values())).config
    scenes = rendered_scenes(config["data"])
    judge = Judge(scenes)
    bands = scenes["infrared"], scenes["visible"]
    images = {name.removeprefix("trivial:"): plane for name, plane in trivial_fusions(*bands).items()}
    images["ideal reference"] = scenes["reference"]
    table: dict[str, list[Scores]] = {name: [judge(fused)] for name, fused in images.items()}
    table["untrained network"] = []
    seeds = sorted({seed for each in runs.values() for seed in each})
    for seed in seeds:
        seed_everything(seed, workers=True, verbose=False)
        images["untrained network"] = fuse(build(config["backbone"], "backbone"), *bands)
        table["untrained network"].append(judge(images["untrained network"]))
    for name, each in runs.items():
        table[name] = []
        for seed, run in sorted(each.items(), reverse=True):
            images[name] = fuse(load_backbone(run.path / "checkpoints/last.ckpt"), *bands)
            table[name].insert(0, judge(images[name]))
            print(f"{name}, seed {seed}: " + ", ".join(f"{c} {mean(table[name][0][c]):.3f}" for c in COLUMNS))
    print(f"\n{len(scenes['infrared'])} scenes; seeds: "
          + "; ".join(f"{name} {sorted(each)}" for name, each in runs.items()) + "\n")  # fmt: skip
    print_table(table)
    for other in ("average", "maximum"):
        print_wins(table, list(runs), other)
    columns = ["infrared", "visible", "average", "ideal reference", *runs]
    rows = [[images[name][index] for name in columns] for index in SHOWN]
    draw_panel(columns, rows, 150).save(out / "panel.jpg", quality=80)
    cuts = [
        [images[name][index, :, top : top + SIDE, left : left + SIDE] for name in columns]
        for index, top, left in CLOSE
    ]
    draw_panel(columns, cuts, 2 * SIDE).save(out / "close.jpg", quality=70)
    draw_curves(runs, out / "curves.png")


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the images")
    options = parser.parse_args()
    main(options.folders, options.out)
