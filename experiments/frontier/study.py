"""The bi-level frontier: what does each way to nest prompts and network give? Five seeds, real and rendered.

    python -m experiments.frontier.study [--msrs data/msrs] [--set msrs synthetic] [--loss NAME ...] [--save]

For each set, as in experiments/downstream, whose data, seeds, network, schedule and rule for learning rates
these are:

1. trials: each row takes the best of three learning rates on the validation scenes;
2. samples: five seeds of each row at its rate;
3. machine: `clipfuse downstream` on all of them, with both bands and the trivial fusions beside them;
4. prompts: how often the prompts of a training put the good image of a test scene above a bad one;
5. cost: processor seconds of an update, by `experiments.compare_losses.study.seconds_per_update`.

What is finished is not done again, so that a budget can be spent a row at a time: `--loss` takes some of
them. `--save` keeps the numbers of each row in a zip of its own in results/, which `clipfuse compare` and
experiments.downstream.answers take together.
`--tiny` tries the study itself on a few small images.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from experiments.common import (
    build,
    find_finished,
    format_cell,
    format_table,
    load_loss,
    stack_scenes,
)
from experiments.compare_losses.study import seconds_per_update
from experiments.downstream import study

from clipfuse.files import write_json
from clipfuse.losses.promptfusion import PromptFusionLoss
from clipfuse.types import LossInputs

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PROMPTS = ["loss=promptfusion", "loss.warmup={warmup}"]
# The settings of the new lower level: those that choose.py finds (README, "Choice").
CHOSEN = ["loss.fused_target=0.5", "loss.anchor_weight=1.0"]
VIEWS = ["loss=promptfusion_views", "loss.warmup={warmup}", *CHOSEN]
OBJECTS = "loss.objects=[person,car]"
LOSSES = {
    "pixel": ["loss=pixel"],
    "fixed": [*PROMPTS, "loss.prompts=fixed"],
    "joint": [*PROMPTS, "solver=joint"],
    "alternate": [*PROMPTS, "solver=alternate"],
    "value_penalty_1": [*PROMPTS, "solver=value_penalty"],
    "value_penalty_2": [*PROMPTS, "solver=value_penalty", "solver.order=2"],
    "meha": [*PROMPTS, "solver=meha"],
    "reverse": ["loss=learned_loss"],
    "views": [*VIEWS, "solver=value_penalty"],
    "views_alternate": [*VIEWS, "solver=alternate"],
    "views_objects": [*VIEWS, "solver=value_penalty", OBJECTS],
}
"""Of each row the overrides of its training; "{warmup}" becomes a fifth of the updates."""
NAMES = "loss.class_names=[sky,road,pavement,ground,building,vegetation,pole,lamp,sign,person,car]"


def losses_of(name: str, chosen: Sequence[str]) -> dict[str, list[str]]:
    """Return the rows of a set; the rendered one has no file that names its classes."""
    more = [NAMES] if name == "synthetic" else []
    return {loss: [*LOSSES[loss], *(more if OBJECTS in LOSSES[loss] else [])] for loss in chosen}


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


def prompts(out: Path) -> list[str]:
    """Return a table of the separation on test scenes, over seeds; measured once, kept in separation.json."""
    rows = []
    for folder in sorted((out / "samples").iterdir()):
        kept = folder / "separation.json"
        if not folder.is_dir():
            continue
        if not kept.exists():
            found = [separation(run.path, run.config) for run in find_finished([folder])]
            write_json(kept, [each for each in found if each])
        seeds = json.loads(kept.read_text())
        if seeds:
            rows.append([folder.name, *(format_cell([each[pair] for each in seeds]) for pair in seeds[0])])
    return format_table(["row", "targets", "texture", "harmony"], rows) if rows else []


def cost(out: Path, data: Sequence[str], losses: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a table of processor seconds per update; measured once, kept in seconds_per_update.json."""
    kept = out / "samples" / "seconds_per_update.json"
    seconds: dict[str, float] = json.loads(kept.read_text()) if kept.exists() else {}
    if missing := [loss for loss in losses if loss not in seconds]:
        # Beside those with fixed prompts in the same turns, as the machine may be busier than it was.
        seconds |= seconds_per_update(
            [*data, "clip=micro"], missing, lambda loss, steps: study.words(losses[loss], steps)
        )
        write_json(kept, seconds)
    least = seconds.get("fixed", min(seconds.values()))
    rows = [[loss, f"{each:.3f}", f"{each / least:.2f}"] for loss, each in seconds.items()]
    return format_table(["row", "seconds per update", "times that of fixed prompts"], rows)


def main() -> None:
    """Run the study, or what is missing of it."""
    parser = study.make_options(__doc__, "runs/frontier")
    parser.add_argument("--loss", nargs="+", choices=LOSSES, default=list(LOSSES), help="rows to run")
    options = study.given_options(parser)
    torch.set_num_threads(1)
    for name in options.set:
        out, losses = options.out / name, losses_of(name, options.loss)
        data = [word.format(msrs=options.msrs) for word in study.SETS[name]]
        study.train(out, name, data, options.tiny, losses, options.parallel, clip="micro")
        if not options.tiny:
            study.restore_plain(out)
        study.judge(out, options.tiny, options.parallel)
        print("", *prompts(out), "", sep="\n", flush=True)
        if not options.tiny:
            print("", *cost(out, data, losses), "", sep="\n", flush=True)
        if options.save:
            study.save(out, RESULTS, "separation.json", msrs=options.msrs, losses=options.loss)


if __name__ == "__main__":
    main()
