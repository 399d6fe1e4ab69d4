"""What prompts that learn are worth: runs of one budget that differ in loss and solver, on held-out scenes.

    python -m experiments.promptfusion.report FOLDER [--out experiments/promptfusion]

Prints markdown tables of all finished runs below the folder, mean +- standard deviation over seeds, and draws
`panel.jpg` and `ranking.jpg`. `FOLDER/judge` holds the CLIP of `judge.py`, which no network met.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from experiments.ldfusion.report import cell, fuse, load_scenes
from PIL import Image
from torch import Tensor

from clipfuse.clip.encoder import FrozenClip
from clipfuse.clip.similarity import pair_probability
from clipfuse.losses.promptfusion import PromptFusionLoss
from clipfuse.metrics import FusionMetrics, baselines
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.networks.load import load_backbone
from clipfuse.ops.depth import to_bytes, to_unit
from clipfuse.runs.build import build
from clipfuse.tracking.pictures import draw_panel
from clipfuse.types import LossInputs

LONG = "value_penalty, long"
ORDER = ("pixel", "fixed", "joint", "alternate", "gauss_newton", "value_penalty", LONG)
METRICS = ("target-contrast", "local-detail", "noise", "EN", "SD", "SF", "AG", "SCD", "VIF", "Qabf", "SSIM")
SHOWN = (1, 3, 9)  # scenes of the panel
SOLVERS = {"ValuePenalty": "value_penalty", "GaussNewton": "gauss_newton", "Alternate": "alternate"}
Runs = dict[str, dict[int, Path]]


def variant(config: Mapping[str, Any]) -> str:
    """Return what a run is called here."""
    if config["loss"]["_target_"].endswith("PixelLoss"):
        return "pixel"
    if config["loss"]["prompts"] == "fixed":
        return "fixed"
    if config["solver"].get("z_steps", 5) > 5:
        return LONG
    return SOLVERS.get(config["solver"]["_target_"].rpartition(".")[2], "joint")


def find_runs(folder: Path) -> Runs:
    """Return the finished runs as {variant: {seed: folder}}; they must share budget, network and data."""
    found: Runs = {}
    shared: dict[str, Any] = {}
    for status in sorted(folder.rglob("status.json")):
        if json.loads(status.read_text())["status"] != "finished":
            continue
        config = yaml.safe_load((status.parent / "config.yaml").read_text())
        same = {key: config[key] for key in ("steps", "backbone", "data", "loader", "optimizer", "protocol")}
        if shared and same != shared:
            raise SystemExit(f"{status.parent} differs in more than its loss from the runs before it")
        shared = same
        found.setdefault(variant(config), {})[config["seed"]] = status.parent
    if not found:
        raise SystemExit(f"no finished run in {folder}")
    return {name: found[name] for name in ORDER if name in found}


class IndependentJudge:
    """p_pos of pictures under the fixed texts of the study's pairs, by a CLIP that guided nobody."""

    def __init__(self, folder: Path, pairs: Mapping[str, Mapping[str, str]]) -> None:
        self.clip = FrozenClip.load("micro", str(folder))
        self.names = list(pairs)
        self.positive, self.negative = (
            self.clip.encode_text([pair[side] for pair in pairs.values()])
            for side in ("positive", "negative")
        )

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> dict[str, float]:
        """Return the mean over pictures for each pair."""
        seen = self.clip.encode_image(to_unit(to_bytes(pictures)), resize="squash")
        p = pair_probability(seen, self.positive, self.negative, self.clip.logit_scale).mean(dim=0)
        return {f"p {name}": float(value) for name, value in zip(self.names, p, strict=True)}


def score(pictures: Tensor, scenes: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the means of `METRICS` over the scenes, protocol strict, on the 8-bit luma."""
    metrics = FusionMetrics("strict", METRICS)
    fused = to_unit(to_bytes(pictures))
    metrics.update(
        fused, scenes["infrared"], scenes["visible"], target_mask=scenes["target_mask"]
    )  # fmt: skip
    return {name: float(value) for name, value in metrics.compute().items()}


def separation(run: Path, scenes: Mapping[str, Tensor]) -> dict[str, float]:
    """Return in which share of cases a run's prompts score a scene's good picture above its bad one."""
    checkpoint = read_checkpoint(run / "checkpoints/last.ckpt")
    loss = build(checkpoint["clipfuse"]["config"]["loss"], "loss")
    assert isinstance(loss, PromptFusionLoss)
    weights = {key.removeprefix("loss."): value for key, value in checkpoint["state_dict"].items()
               if key.startswith("loss.")}  # fmt: skip
    loss.load_state_dict(weights)
    loss.eval()
    count = len(scenes["infrared"])
    names = tuple(map(str, range(count)))
    inputs = LossInputs(
        scenes["infrared"], scenes["infrared"], scenes["visible"], scenes["visible"], {}, names, 0, 0
    )
    with torch.no_grad():
        good, bad = loss._score_pairs(loss._embed_pictures(inputs), loss._texts(loss.lower_parameters()))
    right = (good > bad).float().mean(dim=0)
    return dict(zip(loss.pair_names, right.tolist(), strict=True))


def main(folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    runs = find_runs(folder)
    config = yaml.safe_load((next(iter(runs[max(runs)].values())) / "config.yaml").read_text())
    guided = next(name for name in runs if name != "pixel")
    pairs = yaml.safe_load((next(iter(runs[guided].values())) / "config.yaml").read_text())["loss"]["pairs"]
    scenes = load_scenes(config["data"])
    judge = IndependentJudge(folder / "judge", pairs)
    pictures = {name.removeprefix("baseline:"): plane for name, plane in
                baselines(scenes["infrared"], scenes["visible"]).items()}  # fmt: skip
    pictures["ideal reference"] = scenes["reference"]
    table = {name: [{**score(plane, scenes), **judge(plane)}] for name, plane in pictures.items()}
    for name, each in runs.items():
        table[name] = []
        for _, run in sorted(each.items(), reverse=True):
            pictures[name] = fuse(load_backbone(run / "checkpoints/last.ckpt"), scenes)
            table[name].append({**score(pictures[name], scenes), **judge(pictures[name])})
    columns = list(table[guided][0])
    print(f"{len(scenes['infrared'])} scenes; seeds: "
          + "; ".join(f"{name} {sorted(each)}" for name, each in runs.items()) + "\n")  # fmt: skip
    print("| picture | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for name, seeds in table.items():
        print(f"| {name} | " + " | ".join(cell([seed[c] for seed in seeds]) for c in columns) + " |")
    learned = [name for name in runs if name not in ("pixel", "fixed")]
    print("\nGood pictures above bad ones of the same held-out scene:\n")
    for name in learned:
        found = [separation(run, scenes) for run in runs[name].values()]
        cells = [f"{pair} {cell([each[pair] for each in found])}" for pair in found[0]]
        print(f"| {name} | " + " | ".join(cells) + " |")
    shown = ["infrared", "visible", "ideal reference", *runs]
    rows = [[pictures[name][index] for name in shown] for index in SHOWN]
    draw_panel(shown, rows, 150).save(out / "panel.jpg", quality=80)
    if learned:
        notes = sorted((runs[learned[-1]][min(runs[learned[-1]])] / "notes").glob("*.png"))
        first, last = (Image.open(path).convert("RGB") for path in (notes[0], notes[-1]))
        sheet = Image.new("RGB", (max(first.width, last.width), first.height + last.height), "white")
        sheet.paste(first, (0, 0))
        sheet.paste(last, (0, first.height))
        sheet.save(out / "ranking.jpg", quality=80)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the pictures")
    options = parser.parse_args()
    main(options.folder, options.out)
