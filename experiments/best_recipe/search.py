"""The search for the recipe that ships: five rounds of trainings.

    python -m experiments.best_recipe.search --roadscene data/roadscene [--last 1]

1. fidelity: which weights of the pixel loss;
2. start: which image the network adds to, the network's size, the learning rate, and SCD's weight again;
3. guidance: the winner alone, and with each loss that asks a CLIP;
4. setting: the winner with other networks, data, crops and averaged weights;
5. length: the winner for other numbers of updates, with the weights and the rate that more of them may want.

Every round ends with the rule of `rule.py`; what wins it is the base of the next. Rounds 3 and 4 take three
seeds, so that they are ablations too, and crops of 64, less than half the work of the 96 before.
What has finished in `--out` is not run again.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from statistics import fmean

import torch
from experiments.best_recipe.rule import (
    METRICS,
    OWN,
    Scores,
    average_ranks,
    load_scenes,
    rejection,
    score,
    trivial,
)
from experiments.common import format_cell, format_table, load_sources, make_parser, run_sweeps
from torch import Tensor, nn

from clipfuse.networks.load import load_backbone

Weights = dict[str, float]
Found = Mapping[str, Mapping[str, list[Scores]]]  # scenes -> candidate -> one per seed
Networks = Mapping[tuple[str, int], nn.Module]  # by recipe and seed
Recipe = dict[str, list[str]]  # overrides by what they are about
STEPS = 300
REAL, RENDERED = "data.sources.roadscene.root", "data.sources.synthetic.train=120"
FIDELITIES: dict[str, Weights] = {
    "brighter": {"intensity": 1, "gradient": 10},
    "brighter, ssim": {"intensity": 1, "gradient": 10, "ssim": 1},
    "brighter, difference": {"intensity": 1, "gradient": 10, "difference": 1},
    "all": {"intensity": 1, "gradient": 10, "ssim": 1, "difference": 1, "decomposition": 2},
    "all, difference 3": {"intensity": 1, "gradient": 10, "ssim": 1, "difference": 3, "decomposition": 2},
    "edges, difference": {"gradient": 10, "difference": 1},
    "edges, ssim, difference": {"gradient": 10, "ssim": 1, "difference": 1},
    "edges, ssim 3, difference": {"gradient": 10, "ssim": 3, "difference": 1},
    "edges, ssim, difference 3": {"gradient": 10, "ssim": 1, "difference": 3},
    "edges 20, ssim, difference": {"gradient": 20, "ssim": 1, "difference": 1},
    "edges 5, ssim, difference": {"gradient": 5, "ssim": 1, "difference": 1},
    "brighter 0.3, edges, ssim, difference": {"intensity": 0.3, "gradient": 10, "ssim": 1, "difference": 1},
}


def base(roadscene: str) -> Recipe:
    """Return what every recipe has in common until a round decides otherwise."""
    return {
        "engine": [
            *("trainer=cpu", "clip=micro_1", "test=false"),
            *("objective=val/metric/SSIM", "metrics.validation=[SSIM]"),
        ],
        "network": ["backbone=contourlet_tiny", "backbone.smooth=true"],
        "data": ["data=mixed", f"{REAL}={roadscene}", RENDERED],
        "schedule": [f"steps={STEPS}", f"validate_every={STEPS}"],
        "seed": ["seed=0"],
    }


def fidelity(weights: Weights, place: str) -> list[str]:
    """Return the overrides that give the pixel loss at `place` its weights."""
    every = ("intensity", "gradient", "ssim", "decomposition", "difference")
    return [f"{place}.{name}_weight={weights.get(name, 0)}" for name in every]


def fidelities(start: Recipe) -> dict[str, Recipe]:
    """Round 1, one seed: the weights of the pixel loss."""
    return {
        name: {**start, "loss": ["loss=pixel", *fidelity(weights, "loss")]}
        for name, weights in FIDELITIES.items()
    }


def starts(start: Recipe, weights: Weights) -> dict[str, tuple[Recipe, Weights]]:
    """Round 2, one seed: what the network adds to, the network's size, its rate, and weights again.

    The weights once more, because what a network must still do depends on where it starts.
    """
    network, fast = start["network"], {"rate": ["optimizer.lr=3e-3"]}
    pyramid, energy = ([*network, f"backbone.residual={name}"] for name in ("pyramid", "energy"))
    recipes: dict[str, Recipe] = {
        "pyramid, small network": {**start, "network": ["backbone=contourlet_small", *pyramid[1:]]},
        "average": start,
        "average, rate 3e-3": {**start, **fast},
        "maximum": {**start, "network": [*network, "backbone.residual=maximum"]},
        "pyramid": {**start, "network": pyramid},
        "pyramid, rate 3e-3": {**start, **fast, "network": pyramid},
        "energy": {**start, "network": energy},
    }
    found = {name: (recipe, weights) for name, recipe in recipes.items()}
    choices: list[tuple[str, list[str], Sequence[int]]] = [
        ("pyramid", pyramid, (3, 10)),
        ("energy", energy, (10,)),
    ]
    for (detail, large), tried in {
        (1.1, 1.0): (3, 5, 10),
        (1.2, 1.0): (5, 10),
        (1.1, 1.3): (3, 10),
        (1.1, 1.5): (1, 3, 10),
        (1.1, 1.7): (3,),
        (1.2, 1.3): (5,),
        (1.2, 1.5): (3,),
    }.items():
        gains = [f"backbone.detail_gain={detail}", f"backbone.base_gain={large}"]
        name = f"energy {detail}" if large == 1 else f"energy {detail}, base {large}"
        choices.append((name, [*energy, *gains], tried))
    for name, layers, differences in choices:
        for more in differences:
            changed = {**weights, "difference": more}
            recipe = {**start, "network": layers, "loss": ["loss=pixel", *fidelity(changed, "loss")]}
            found[f"{name}, difference {more}"] = recipe, changed
    return found


def guidances(start: Recipe, weights: Weights, steps: int = STEPS) -> dict[str, Recipe]:
    """Round 3: the fidelity alone, and with what each CLIP-guided loss adds to it."""
    prompts = ["loss=promptfusion", f"loss.warmup={steps // 5}", *fidelity(weights, "loss.fidelity")]
    joined = [f"+loss.of.pixel.{word.removeprefix('loss.')}" for word in fidelity(weights, "loss")]
    described = ["loss=weighted_sum", *joined]
    losses = {
        "no guidance": ["loss=pixel", *fidelity(weights, "loss")],
        "clip_ratio": ["loss=clip_ratio", *fidelity(weights, "loss.fidelity")],
        "ldfusion": [*described, "+loss.parts={pixel:1,ldfusion:0.03}"],
        "ldfusion 0.1": [*described, "+loss.parts={pixel:1,ldfusion:0.1}"],
        "promptfusion": [*prompts, "solver=value_penalty"],
        "promptfusion 3": [*prompts, "loss.guidance_weight=3", "solver=value_penalty"],
        "promptfusion, alternate": [*prompts, "solver=alternate"],
    }
    return {name: {**start, "loss": loss} for name, loss in losses.items()}


def settings(start: Recipe, roadscene: str) -> dict[str, Recipe]:
    """Round 4: the winner in other settings."""
    plain = "experiments.best_recipe.plain.PlainAutoencoder"
    return {
        "as it is": start,
        "no contourlet": {**start, "network": [*start["network"], f"backbone._target_={plain}"]},
        "real pairs only": {**start, "data": ["data=roadscene", f"data.root={roadscene}"]},
        "rendered pairs only": {**start, "data": ["data=synthetic", "data.train=120"]},
        "crops of 96": {**start, "crop": ["loader.crop_size=96"]},
        "averaged weights": {**start, "average": ["ema=0.98"]},
        "constant rate": {**start, "scheduler": ["scheduler=constant"]},
    }


def lengths(start: Recipe, guidance: str, weights: Weights) -> dict[str, Recipe]:
    """Round 5, one seed: the winner of before, `guidance` its loss, for other numbers of updates.

    What a loss asks for and what the rule counts are not the same, and the longer the training the more so:
    the longer ones come with other weights and rates, too.
    """

    def recipe(steps: int, **change: float) -> Recipe:
        schedule = [f"steps={steps}", f"validate_every={steps}"]
        longer = {**start, "schedule": schedule, "seed": ["seed=0"]}
        return guidances(longer, {**weights, **change}, steps)[guidance]

    return {
        "3000 updates": recipe(3000),
        "1000 updates": recipe(1000),
        "1000 updates, ssim 3": recipe(1000, ssim=3),
        "1000 updates, difference 3": recipe(1000, difference=3),
        "1000 updates, rate 3e-4": {**recipe(1000), "rate": ["optimizer.lr=3e-4"]},
        "600 updates": recipe(600),
        "300 updates": recipe(300),
        "300 updates, rate 3e-4": {**recipe(300), "rate": ["optimizer.lr=3e-4"]},
        "100 updates": recipe(100),
    }


def run_round(out: Path, recipes: Mapping[str, Recipe]) -> dict[str, list[Path]]:
    """Train every recipe, two at a time; returns its run folders."""
    folders = {name: out / name.replace(", ", "_").replace(" ", "-") for name in recipes}
    run_sweeps({folders[name]: [*chain(*recipe.values())] for name, recipe in recipes.items()})
    return {
        name: sorted(path.parent for path in folder.glob("*/status.json")) for name, folder in folders.items()
    }


def load_networks(runs: Mapping[str, Sequence[Path]]) -> Networks:
    """Return the networks of the runs, by recipe and seed."""
    return {
        (name, seed): load_backbone(run / "checkpoints/last.ckpt", ["experiments"])
        for name, folders in runs.items()
        for seed, run in enumerate(folders)
    }


def judge(networks: Networks, roadscene: str, part: str = "val") -> dict[str, dict[str, list[Scores]]]:
    """Return the scores of networks and of the trivial fusions: scenes -> candidate -> one per seed."""

    def candidates(infrared: Tensor, visible: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            fused = {f"{name}/{seed}": net(infrared, visible).fused for (name, seed), net in networks.items()}
        return {**trivial(infrared, visible), **fused}

    found: dict[str, dict[str, list[Scores]]] = {}
    for kind, source in load_sources(roadscene).items():
        for key, row in score(load_scenes(source, part), candidates).items():
            found.setdefault(kind, {}).setdefault(key.partition("/")[0], []).append(row)
    return found


def decide(found: Found) -> tuple[str, str]:
    """Apply the rule; returns the winner and the table as markdown."""
    total, lines = tabulate(found)
    winner = next((name for name in total if not name.startswith("trivial:")), None)
    if winner is None:
        raise SystemExit("\n".join([*lines, "\nEvery recipe is rejected; none can ship"]))
    best = next(iter(total))
    lines.append(f"\nWinner: {winner}, mean rank {total[winner]:.2f}; best of all: {best}, {total[best]:.2f}")
    return winner, "\n".join(lines)


def tabulate(found: Found) -> tuple[dict[str, float], list[str]]:
    """Return the mean ranks of what the rule does not reject, best first, and the lines of the table."""
    means = {
        kind: {
            name: {key: fmean(row[key] for row in seeds if key in row) for key in seeds[0]}
            for name, seeds in rows.items()
        }
        for kind, rows in found.items()
    }
    reasons = {
        name: next(filter(None, (rejection(name, rows) for rows in means.values())), None)
        for name in means["real"]
    }
    names = [name for name, reason in reasons.items() if not reason]
    ranks = {kind: average_ranks({name: rows[name] for name in names}) for kind, rows in means.items()}
    total = {name: fmean(ranks[kind][name] for kind in means) for name in names}
    total = dict(sorted(total.items(), key=lambda pair: pair[1]))
    lines = []
    for kind, rows in means.items():
        keys = [key for key in (*METRICS, *OWN) if key in rows[names[0]]]
        body = []
        for name in [*total, *(name for name, reason in reasons.items() if reason)]:
            cells = [format_cell([row[key] for row in found[kind][name]]) for key in keys]
            body.append([name, "rejected" if reasons[name] else f"{ranks[kind][name]:.1f}", *cells])
        lines += [f"\n**{kind} scenes**\n", *format_table(["recipe", "rank", *keys], body)]
    lines += [f"\nRejected: {name}: {reason}" for name, reason in reasons.items() if reason]
    return total, lines


def main() -> None:
    """Run the rounds, or what is missing of them."""
    parser = make_parser(__doc__, roadscene=True)
    parser.add_argument("--out", type=Path, default=Path("runs/best_recipe"))
    parser.add_argument("--last", type=int, choices=(1, 2, 3, 4, 5), default=5, help="stop after this round")
    options = parser.parse_args()
    start = base(options.roadscene)

    def finish(name: str, recipes: Mapping[str, Recipe]) -> str:
        winner, table = decide(
            judge(load_networks(run_round(options.out / name, recipes)), options.roadscene)
        )
        print(f"\n## {name}\n{table}", flush=True)
        (options.out / f"{name}.md").write_text(f"{table}\n")
        return winner

    recipes = fidelities(start)
    fidelity_name = finish("fidelity", recipes)
    weights = FIDELITIES[fidelity_name]
    if options.last == 1:
        return
    choices = starts(recipes[fidelity_name], weights)
    chosen, weights = choices[finish("start", {name: recipe for name, (recipe, _) in choices.items()})]
    if options.last == 2:
        return
    recipes = guidances({**chosen, "crop": ["loader.crop_size=64"], "seed": ["seed=0,1,2"]}, weights)
    guidance = finish("guidance", recipes)
    if options.last == 3:
        return
    recipes = settings(recipes[guidance], options.roadscene)
    chosen = recipes[finish("setting", recipes)]
    if options.last == 4:
        return
    finish("length", lengths(chosen, guidance, weights))


if __name__ == "__main__":
    main()
