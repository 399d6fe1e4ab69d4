"""How often the prompts of a training put the good image of a test scene above a bad one."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from experiments.common import build, find_finished, format_cell, format_table, load_loss, stack_scenes

from clipfuse.files import write_json
from clipfuse.losses.promptfusion import PromptFusionLoss
from clipfuse.types import LossInputs

KEPT = "separation.json"


def separation(run: Path, config: Mapping[str, Any], part: str = "test") -> dict[str, float] | None:
    """Return in which share of scenes a training's prompts score the good image above a bad one, by pair.

    None of a training without prompts that learn.
    """
    loss, _ = load_loss(run / "checkpoints/last.ckpt")
    if not isinstance(loss, PromptFusionLoss) or loss.prompts is None:
        return None
    loss.eval()
    source: Any = build(config["data"], "data")
    scenes = stack_scenes(source, part, ("infrared", "visible"))
    parts = zip(*(scenes[name].split(16) for name in ("infrared", "visible")), strict=True)
    right = []
    with torch.no_grad():
        texts = loss._texts(loss.lower_parameters())
        for index, (infrared, visible) in enumerate(parts):
            inputs = LossInputs(infrared, infrared, visible, step=index)
            good, bad = loss._score_pairs(loss._embed_pictures(inputs), texts)
            right.append((good > bad).double())
    return dict(zip(loss.pair_names, torch.cat(right).mean(dim=0).tolist(), strict=True))


def table(out: Path, losses: Iterable[str]) -> list[str]:
    """Return a table of the separation on test scenes, over seeds; measured once, kept in `KEPT`.

    Args:
        out: the folder of a set.
        losses: those whose samples are finished.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for folder in (out / "samples" / loss for loss in losses):
        kept = folder / KEPT
        if not kept.exists():
            measured = [separation(run.path, run.config) for run in find_finished([folder])]
            write_json(kept, [each for each in measured if each])
        if seeds := json.loads(kept.read_text()):
            found[folder.name] = seeds
    pairs = list(dict.fromkeys(pair for seeds in found.values() for pair in seeds[0]))
    rows = [
        [loss, *(format_cell([each[pair] for each in seeds]) if pair in seeds[0] else "-" for pair in pairs)]
        for loss, seeds in found.items()
    ]
    return format_table(["row", *pairs], rows) if rows else []
