"""What prompts that learn are worth: runs of one budget that differ in loss and solver, on held-out scenes.

    python -m experiments.promptfusion.report FOLDER [--out experiments/promptfusion]

Prints markdown tables of all finished runs below the folder, mean +- standard deviation over seeds, and draws
`panel.jpg` and `ranking.jpg`. `FOLDER/judge` holds the CLIP of `judge.py`, which no network met.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from experiments.common import (
    find_finished,
    format_cell,
    format_table,
    fuse,
    load_loss,
    make_parser,
    rendered_scenes,
)
from PIL import Image
from torch import Tensor

from clipfuse.clip.encoder import FrozenClip
from clipfuse.clip.similarity import pair_probability
from clipfuse.comparison.collect import Run
from clipfuse.losses.promptfusion import PromptFusionLoss
from clipfuse.metrics import FusionMetrics, trivial_fusions
from clipfuse.networks.load import load_backbone
from clipfuse.ops.depth import to_bytes, to_unit
from clipfuse.tracking.pictures import draw_panel
from clipfuse.types import LossInputs

LONG = "value_penalty, long"
ORDER = ("pixel", "fixed", "joint", "alternate", "gauss_newton", "value_penalty", LONG)
METRICS = ("target-contrast", "local-detail", "noise", "EN", "SD", "SF", "AG", "SCD", "VIF", "Qabf", "SSIM")
SHOWN = (1, 3, 9)  # scenes of the panel
SOLVERS = {"ValuePenalty": "value_penalty", "GaussNewton": "gauss_newton", "Alternate": "alternate"}
Runs = dict[str, dict[int, Run]]


def variant(config: Mapping[str, Any]) -> str:
    """Return what a run is called here."""
    if config["loss"]["_target_"].endswith("PixelLoss"):
        return "pixel"
    if config["loss"]["prompts"] == "fixed":
        return "fixed"
    if config["solver"].get("z_steps", 5) > 5:
        return LONG
    return SOLVERS.get(config["solver"]["_target_"].rpartition(".")[2], "joint")


def group_runs(folder: Path) -> Runs:
    """Return the finished runs as {variant: {seed: run}}; they must share budget, network and data."""
    found: Runs = {}
    shared: dict[str, Any] = {}
    for run in find_finished([folder]):
        keys = ("steps", "backbone", "data", "loader", "optimizer", "protocol")
        same = {key: run.config[key] for key in keys}
        if shared and same != shared:
            raise SystemExit(f"{run.path} differs in more than its loss from the runs before it")
        shared = same
        found.setdefault(variant(run.config), {})[run.seed] = run
    return {name: found[name] for name in ORDER if name in found}


class IndependentJudge:
    """p_pos of images under the fixed texts of the study's pairs, by a CLIP that guided nobody."""

    def __init__(self, folder: Path, pairs: Mapping[str, Mapping[str, str]]) -> None:
        self.clip = FrozenClip.load("micro", str(folder))
        self.names = list(pairs)
        self.positive, self.negative = (
            self.clip.encode_text([pair[side] for pair in pairs.values()])
            for side in ("positive", "negative")
        )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, float]:
        """Return the mean over images for each pair."""
        seen = self.clip.encode_image(to_unit(to_bytes(images)), resize="squash")
        p = pair_probability(seen, self.positive, self.negative, self.clip.logit_scale).mean(dim=0)
        return {f"p {name}": float(value) for name, value in zip(self.names, p, strict=True)}


def score(images: Tensor, scenes: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the means of `METRICS` over the scenes, protocol strict, on the 8-bit luma."""
    metrics = FusionMetrics("strict", METRICS)
    fused = to_unit(to_bytes(images))
    metrics.update(fused, scenes["infrared"], scenes["visible"], target_mask=scenes["target_mask"])
    return {name: float(value) for name, value in metrics.compute().items()}


def separation(run: Run, scenes: Mapping[str, Tensor]) -> dict[str, float]:
    """Return in which share of cases a run's prompts score a scene's good image above its bad one."""
    loss, _ = load_loss(run.path / "checkpoints/last.ckpt")
    assert isinstance(loss, PromptFusionLoss)
    loss.eval()
    inputs = LossInputs(scenes["infrared"], scenes["infrared"], scenes["visible"])
    with torch.no_grad():
        good, bad = loss._score_pairs(loss._embed_pictures(inputs), loss._texts(loss.lower_parameters()))
    right = (good > bad).float().mean(dim=0)
    return dict(zip(loss.pair_names, right.tolist(), strict=True))


def main(folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    runs = group_runs(folder)
    guided = next(name for name in runs if name != "pixel")
    config = next(iter(runs[guided].values())).config
    pairs, scenes = config["loss"]["pairs"], rendered_scenes(config["data"])
    judge = IndependentJudge(folder / "judge", pairs)
    bands = scenes["infrared"], scenes["visible"]
    images = {name.removeprefix("trivial:"): plane for name, plane in trivial_fusions(*bands).items()}
    images["ideal reference"] = scenes["reference"]
    table = {name: [{**score(plane, scenes), **judge(plane)}] for name, plane in images.items()}
    for name, each in runs.items():
        table[name] = []
        for _, run in sorted(each.items(), reverse=True):
            images[name] = fuse(load_backbone(run.path / "checkpoints/last.ckpt"), *bands)
            table[name].append({**score(images[name], scenes), **judge(images[name])})
    columns = list(table[guided][0])
    print(f"{len(scenes['infrared'])} scenes; seeds: "
          + "; ".join(f"{name} {sorted(each)}" for name, each in runs.items()) + "\n")  # fmt: skip
    rows = [
        [name, *(format_cell([seed[c] for seed in seeds]) for c in columns)] for name, seeds in table.items()
    ]
    print(*format_table(["image", *columns], rows), sep="\n")
    learned = [name for name in runs if name not in ("pixel", "fixed")]
    print("\nGood images above bad ones of the same held-out scene:\n")
    for name in learned:
        found = [separation(run, scenes) for run in runs[name].values()]
        cells = [f"{pair} {format_cell([each[pair] for each in found])}" for pair in found[0]]
        print(f"| {name} | " + " | ".join(cells) + " |")
    shown = ["infrared", "visible", "ideal reference", *runs]
    panel = [[images[name][index] for name in shown] for index in SHOWN]
    draw_panel(shown, panel, 150).save(out / "panel.jpg", quality=80)
    if learned:
        notes = sorted((runs[learned[-1]][min(runs[learned[-1]])].path / "notes").glob("*.png"))
        first, last = (Image.open(path).convert("RGB") for path in (notes[0], notes[-1]))
        sheet = Image.new("RGB", (max(first.width, last.width), first.height + last.height), "white")
        sheet.paste(first, (0, 0))
        sheet.paste(last, (0, first.height))
        sheet.save(out / "ranking.jpg", quality=80)


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the images")
    options = parser.parse_args()
    main(options.folder, options.out)
