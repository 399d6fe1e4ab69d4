"""Choose the settings of the new lower level, on validation blocks of MSRS, by the rule of the README.

    python -m experiments.frontier.choose --msrs data/msrs [--out runs/frontier/choice]

trains every setting of GRID with two seeds, scores the validation scenes, and prints what the rule takes.
What is finished is not done again. No test scene is used.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import torch
from experiments.common import find_finished, format_table, make_parser, run_sweeps
from experiments.compare_losses.study import last_validation
from experiments.downstream import study
from experiments.frontier.prompts import separation
from scipy.stats import rankdata

from clipfuse.files import write_json

HERE = Path(__file__).parent
TARGETS, ANCHORS = (0.5, 0.0), (1.0, 0.1, 10.0)
GRID = [(target, anchor) for target in TARGETS for anchor in ANCHORS]
SEEDS, STEPS, RATE = "100,101", 300, 0.001
METRICS = ("kept-information", "kept-structure", "local-detail", "clean-detail")  # balanced-1 without masks
LEAST = 0.95  # share of validation scenes whose good image the prompts must put above a bad one
Setting = tuple[float, float]


def choose(scores: Mapping[Setting, Mapping[str, float]], right: Mapping[Setting, float]) -> Setting:
    """Return the setting that the rule of the README takes.

    Args:
        scores: setting -> metric -> mean over validation scenes and seeds; larger is better in all.
        right: setting -> the lowest share, over pairs of prompts, of scenes that the prompts rank rightly.
    """
    able = [setting for setting in GRID if setting in scores and right[setting] >= LEAST]
    if not able:
        able = [max(scores, key=lambda setting: (right[setting], -GRID.index(setting)))]
    ranks = [rankdata([-scores[setting][metric] for setting in able]) for metric in METRICS]
    means = [fmean(float(rank[index]) for rank in ranks) for index in range(len(able))]
    return min(zip(means, map(GRID.index, able), able, strict=True))[2]


def sweep(msrs: str, steps: int) -> list[str]:
    """Return the overrides of the trainings."""
    data = [word.format(msrs=msrs) for word in study.SETS["msrs"]]
    words = [*study.words(["loss=promptfusion_views", "loss.warmup={warmup}"], steps), *data, "clip=micro"]
    words += [f"loss.fused_target={','.join(map(str, TARGETS))}", f"seed={SEEDS}", "test=false"]
    words += [f"loss.anchor_weight={','.join(map(str, ANCHORS))}", f"optimizer.lr={RATE}"]
    words += [f"validate_every={steps}", f"metrics.validation=[{','.join(METRICS)}]"]
    return [*words, "objective=val/metric/kept-information", "callbacks.best=null"]


def collect(out: Path) -> tuple[dict[Setting, dict[str, float]], dict[Setting, float]]:
    """Return scores and the lowest share of rightly ranked scenes of each setting, means over seeds."""
    found: dict[Setting, list[dict[str, float]]] = defaultdict(list)
    right: dict[Setting, list[dict[str, float]]] = defaultdict(list)
    for run in find_finished([out]):
        setting = (float(run.config["loss"]["fused_target"]), float(run.config["loss"]["anchor_weight"]))
        found[setting].append(last_validation(run, METRICS))
        right[setting].append(separation(run.path, run.config, "val") or {})

    def means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return {name: fmean(row[name] for row in rows) for name in rows[0]}

    lowest = {setting: min(means(rows).values()) for setting, rows in right.items()}
    return {setting: means(rows) for setting, rows in found.items()}, lowest


def main() -> None:
    """Run what is missing, and print what the rule takes."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--msrs", required=True, help="folder of MSRS with the parts train and test of our split"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/frontier/choice"), help="of the run folders")
    parser.add_argument("--steps", type=int, default=STEPS, help="updates; fewer try the script alone")
    parser.add_argument("--parallel", type=int, default=2, help="trainings at a time, of one thread each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    run_sweeps({options.out: sweep(options.msrs, options.steps)}, options.parallel)
    scores, right = collect(options.out)
    lines = [
        [
            f"{setting[0]}",
            f"{setting[1]}",
            f"{right[setting]:.3f}",
            *(f"{scores[setting][m]:.4f}" for m in METRICS),
        ]
        for setting in GRID
    ]
    print(*format_table(["fused_target", "anchor_weight", "ranked rightly", *METRICS], lines), sep="\n")
    chosen = choose(scores, right)
    print(f"\nThe rule takes fused_target={chosen[0]}, anchor_weight={chosen[1]}.")
    if options.steps == STEPS:
        rows = [{"setting": each, "right": right[each], **scores[each]} for each in GRID]
        write_json(HERE / "choice.json", rows)


if __name__ == "__main__":
    main()
