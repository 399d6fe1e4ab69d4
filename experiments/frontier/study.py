"""The bi-level frontier: what does each way to nest prompts and network give? Five seeds, real and rendered.

    python -m experiments.frontier.study [--msrs data/msrs] [--set SET ...] [--loss ROW ...] [--part PART ...]

For each set, as in experiments/downstream, whose data, seeds, network, schedule and rule for learning rates
these are:

1. trials: each row takes the best of three learning rates on the validation scenes;
2. samples: five seeds of each row at its rate;
3. machine: `clipfuse downstream` on all of them, with both bands and the trivial fusions beside them;
4. prompts: how often the prompts of a training put the good image of a test scene above a bad one;
5. cost: processor seconds of an update, by `experiments.compare_losses.study.seconds_per_update`.

Rows that `experiments.compare_losses.zoo` has, too, are trained once for both: `--save` keeps each row in a
zip of its own beside the zoo's, and a part of a row that is kept there (`images`: 1 and 2; `machine`: 3) is
not done again. So the study can be run some rows at a time (`--loss`), on several machines; what is finished
in `--out` is not done again either.
`--tiny` tries the study itself on a few small images.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from experiments.common import format_table
from experiments.compare_losses import zoo
from experiments.compare_losses.study import seconds_per_update
from experiments.downstream import study

from clipfuse.files import write_json

RESULTS = Path(__file__).parent / "results"
FIXED = "promptfusion_fixed"
PROMPTS = ["loss=promptfusion", "loss.warmup={warmup}"]
VIEWS = zoo.LOSSES["promptfusion_views"]
OBJECTS = "loss.objects=[person,car]"
LOSSES = {
    **{loss: zoo.LOSSES[loss] for loss in ("pixel", FIXED)},
    "promptfusion_joint": [*PROMPTS, "solver=joint"],
    **{loss: zoo.LOSSES[loss] for loss in ("promptfusion_alternate", "promptfusion")},
    "promptfusion_order_2": [*PROMPTS, "solver=value_penalty", "solver.order=2"],
    "promptfusion_meha": [*PROMPTS, "solver=meha"],
    **{loss: zoo.LOSSES[loss] for loss in ("learned_loss", "promptfusion_views")},
    "promptfusion_views_alternate": [*VIEWS, "solver=alternate"],
    "promptfusion_views_objects": [*VIEWS, OBJECTS],
}
"""Of each row the overrides of its training; those of the zoo are its, by its names, and trained once."""
NAMES = "loss.class_names=[sky,road,pavement,ground,building,vegetation,pole,lamp,sign,person,car]"


def losses_of(name: str, chosen: Sequence[str]) -> dict[str, list[str]]:
    """Return the rows of a set; the rendered one has no file that names its classes."""
    more = [NAMES] if name == "synthetic" else []
    return {loss: [*LOSSES[loss], *(more if OBJECTS in LOSSES[loss] else [])] for loss in chosen}


def cost(name: str, kept: Path, data: Sequence[str], losses: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a table of processor seconds per update, as multiples of those with fixed prompts.

    Each row is measured in turns with fixed prompts, as another machine or a busier one is slower, and once.

    Args:
        name: of the set.
        kept: file of what has been measured.
        data: overrides that choose the set.
        losses: the rows to measure, by name.
    """
    seconds: dict[str, list[float]] = json.loads(kept.read_text()) if kept.exists() else {}
    if missing := [loss for loss in losses if loss not in seconds]:
        every = {**losses_of(name, [FIXED]), **losses}
        measured = seconds_per_update(
            [*data, "clip=micro"],
            list(dict.fromkeys([FIXED, *missing])),
            lambda loss, steps: study.words(every[loss], steps),
        )
        seconds |= {loss: [measured[loss], measured[FIXED]] for loss in missing}
        write_json(kept, seconds)
    rows = [[loss, f"{own:.3f}", f"{own / fixed:.2f}"] for loss, (own, fixed) in seconds.items()]
    return format_table(["row", "seconds per update", "times that of fixed prompts"], rows)


def main() -> None:
    """Run the study, or what is missing of it."""
    parser = study.make_options(__doc__, "runs/frontier")
    parser.add_argument("--loss", nargs="+", choices=LOSSES, default=list(LOSSES), help="rows to run")
    zoo.add_part(parser)
    options = study.given_options(parser)
    torch.set_num_threads(1)
    for name in options.set:
        found = zoo.run(name, options, partial(losses_of, name), options.loss)
        if found and not options.tiny:
            kept = RESULTS / f"cost_{name}.json" if options.save else options.out / name / "cost.json"
            data = [word.format(msrs=options.msrs) for word in study.SETS[name]]
            print("", *cost(name, kept, data, losses_of(name, found)), "", sep="\n", flush=True)


if __name__ == "__main__":
    main()
