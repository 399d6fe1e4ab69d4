"""Which loss fuses best? Six losses, one network, one schedule, equal samples and then equal time.

    python -m experiments.compare_losses.study --roadscene data/roadscene [--clip vit_b32_openai] [--save]

For the real pairs and for the rendered scenes:

1. trials: each loss takes the best of three learning rates, by `choose_rate`, on the validation scenes, after
   trainings as long as those of the study, with a seed of their own;
2. samples: three seeds of each loss at its rate, the same samples for all;
3. time: the same with as many updates as fit into the time that the pixel loss takes for all of its own.

All run folders go to `--out`. Finished runs are not run again, so a stopped study can be continued.
`clipfuse compare OUT/roadscene/samples` then makes the table and the report. `--save` writes the numbers of
each part, without images and weights, into one zip: SET.zip (samples), SET_time.zip and SET_trials.zip.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from experiments.common import compose_run, make_parser, run_sweeps, save_zip
from scipy.stats import rankdata

from clipfuse.comparison.collect import Run, find_runs
from clipfuse.runs.train import train

HERE = Path(__file__).parent
LOSSES = {
    "pixel": ["loss=pixel"],
    "clip_ratio": ["loss=clip_ratio"],
    "ldfusion": ["loss=ldfusion"],
    "promptfusion": ["loss=promptfusion", "solver=value_penalty"],
    "promptfusion_alternate": ["loss=promptfusion", "solver=alternate"],
    "weighted_sum": ["loss=weighted_sum", "+loss.parts={pixel:1,ldfusion:0.1}"],
}
RATES = (3e-4, 1e-3, 3e-3)
# They choose a rate; larger is better in all.
METRICS = ("EN", "SD", "SF", "AG", "SCD", "VIF", "Qabf", "SSIM")
SEEDS, TRIAL_SEED = "0,1,2", "100"
# What `choose_rate` does, kept in each run: `clipfuse compare` takes rates that differ by one rule alone.
TUNING = {
    "key": "optimizer.lr",
    "grid": list(RATES),
    "rule": f"best mean rank on validation over {' '.join(METRICS)}",
    "trials": f"one training each, seed {TRIAL_SEED}",
}
STEPS = 300
SETTINGS = [
    "trainer=cpu",
    "backbone=contourlet_tiny",
    "backbone.smooth=true",  # or ldfusion, which asks a CLIP alone, paints a checkerboard
    "loader.crop_size=64",
]


def words(loss: str, steps: int) -> list[str]:
    """Return the overrides of one training of `loss`."""
    warmup = [f"loss.warmup={steps // 5}"] if loss.startswith("promptfusion") else []
    return [*SETTINGS, *LOSSES[loss], *warmup, f"steps={steps}"]


def choose_rate(scores: Mapping[float, Mapping[str, float]]) -> float:
    """Return the learning rate whose scores rank best on average over `METRICS`; of equals the smallest.

    The rule knows no loss. Ranks, not means, because the metrics have different units.

    Args:
        scores: rate -> metric -> mean over the validation scenes at the end of the trial.
    """
    ranks = {
        metric: rankdata([-row[metric] for row in scores.values()], method="average") for metric in METRICS
    }
    means = [sum(float(ranks[metric][index]) for metric in METRICS) for index in range(len(scores))]
    return min(zip(means, scores, strict=True))[1]


def last_validation(run: Run, metrics: Sequence[str] = METRICS) -> dict[str, float]:
    """Return the scores of a run's last validation."""
    return {metric: run.curves[f"val/metric/{metric}"][-1][1] for metric in metrics}


def trial_scores(sweep: Path) -> dict[float, dict[str, float]]:
    """Return the validation scores of a loss's trials, by their learning rate."""
    return dict(zip(RATES, map(last_validation, find_runs([sweep])), strict=True))


def seconds_per_update(
    data: Sequence[str],
    losses: Iterable[str] = LOSSES,
    command: Callable[[str, int], Sequence[str]] = words,
) -> dict[str, float]:
    """Measure an update of each loss in processor seconds of one thread: other programs do not disturb them.

    It is the difference between a training of 45 and one of 5 updates, divided by 40. Two rounds, the losses
    in turns; the smaller counts.

    Args:
        data: overrides that all trainings share.
        losses: their names.
        command: the overrides of a training, by the name of its loss and its number of updates.
    """
    torch.set_num_threads(1)
    found: dict[str, float] = {}
    plain = ["test=false", "objective=val/loss/total", "callbacks.best=null", "callbacks.notes=null"]
    plain += ["logger=none", "~callbacks.progress", "+trainer.enable_progress_bar=false"]
    for turn in range(2):
        for loss in losses:
            spent = {}
            for steps in (5, 45):
                with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
                    config = compose_run([*command(loss, steps), *data, *plain, f"run_dir={folder}/run"])
                    start = time.process_time()
                    train(config)
                    spent[steps] = time.process_time() - start
            taken = (spent[45] - spent[5]) / 40
            found[loss] = min(taken, found.get(loss, taken))
            print(f"round {turn + 1}: {loss} {taken:.3f} s per update", flush=True)
    return found


def run_part(out: Path, steps: Mapping[str, int], more: Mapping[str, list[str]]) -> None:
    """Run one sweep per loss, two at a time."""
    run_sweeps({out / loss: [*words(loss, steps[loss]), *more[loss]] for loss in LOSSES})


def study(out: Path, data: list[str], clip: str, timed: Sequence[str] = ()) -> None:
    """Run all three parts on one data set; with `timed` its pairs cost nothing after five updates."""
    shared = [*data, f"clip={clip}"]
    rates = f"optimizer.lr={','.join(map(str, RATES))}"
    trial = [*shared, rates, f"seed={TRIAL_SEED}", f"validate_every={STEPS}", "test=false"]
    trial += [f"metrics.validation=[{','.join(METRICS)}]", "objective=val/metric/SSIM"]
    run_part(out / "trials", dict.fromkeys(LOSSES, STEPS), dict.fromkeys(LOSSES, trial))
    chosen = {loss: choose_rate(trial_scores(out / "trials" / loss)) for loss in LOSSES}
    print(f"{out}: learning rates {chosen}", flush=True)
    tuning = ",".join(f"{key}:{json.dumps(value)}" for key, value in TUNING.items())
    final = {
        loss: [
            *(*shared, f"optimizer.lr={rate}", f"tuning={{{tuning}}}"),
            *(f"seed={SEEDS}", f"validate_every={STEPS // 3}"),
        ]
        for loss, rate in chosen.items()
    }
    run_part(out / "samples", dict.fromkeys(LOSSES, STEPS), final)
    measured = out / "time" / "seconds_per_update.json"
    if not measured.exists():
        measured.parent.mkdir(exist_ok=True)
        measured.write_text(json.dumps(seconds_per_update([*shared, *timed]), indent=1) + "\n")
    seconds = json.loads(measured.read_text())
    fitting = {loss: round(STEPS * seconds["pixel"] / seconds[loss]) for loss in LOSSES}
    print(f"{out}: updates in equal time {fitting}", flush=True)
    run_part(out / "time", fitting, final)


def save(out: Path, folder: Path) -> None:
    """Write the numbers of the parts of one data set into one zip each."""
    for part in ("samples", "time", "trials"):
        save_zip(out / part, folder / f"{out.name}{'' if part == 'samples' else f'_{part}'}.zip")


def main() -> None:
    """Run the study, or what is missing of it."""
    parser = make_parser(__doc__)
    parser.add_argument("--roadscene", help="folder of the real pairs; without: rendered ones only")
    parser.add_argument("--clip", default="micro_1", help="an option of clipfuse train")
    parser.add_argument("--out", type=Path, help="of the run folders; default: runs/compare_losses_CLIP")
    parser.add_argument(
        "--save",
        type=Path,
        nargs="?",
        const=HERE / "results",
        metavar="FOLDER",
        help="keep the numbers in zips in this folder (without a name: in results/ beside this file)",
    )
    options = parser.parse_args()
    out = options.out or Path(f"runs/compare_losses_{options.clip}")
    # Rendering is paid once a scene, by every loss alike.
    parts: dict[str, tuple[list[str], Sequence[str]]] = {
        "synthetic": (["data=synthetic"], ("data.train=16", "data.val=2"))
    }
    if options.roadscene:
        real = ["data=roadscene", f"data.root={options.roadscene}"]
        parts = {"roadscene": (real, ()), **parts}
    for name, (data, few) in parts.items():
        study(out / name, data, options.clip, few)
        if options.save:
            save(out / name, options.save)


if __name__ == "__main__":
    main()
