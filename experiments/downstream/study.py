"""Does a fused image help a machine to see? Six losses, five seeds, two task seeds, real and rendered scenes.

    python -m experiments.downstream.study [--msrs data/msrs] [--set msrs synthetic] [--save]

For each set:

1. trials: each loss takes the best of three learning rates, by the rule of experiments/compare_losses;
2. samples: five seeds of each loss at its rate;
3. machine: `clipfuse downstream` on all of them, the bundled network, the plain rows and `both`.

What is finished is not done again, so that a stopped study can be continued. `--save` writes the numbers
into SET.zip and SET_trials.zip, which `clipfuse compare` and experiments/downstream/answers.py read.
`--tiny` tries the study itself on a few small images.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from experiments.common import KEPT, make_parser, run_sweeps, save_zip
from experiments.compare_losses.study import (
    METRICS,
    RATES,
    SETTINGS,
    TRIAL_SEED,
    TUNING,
    choose_rate,
    trial_scores,
)

HERE = Path(__file__).parent
RESULTS = HERE / "results"
LOSSES = {
    "pixel": ["loss=pixel"],
    "ldfusion": ["loss=ldfusion"],
    "promptfusion": ["loss=promptfusion", "solver=value_penalty", "loss.warmup={warmup}"],
    "promptfusion_fixed": ["loss=promptfusion", "loss.prompts=fixed", "loss.warmup={warmup}"],
    "weighted_sum": ["loss=weighted_sum", "+loss.parts={pixel:1,ldfusion:0.1}"],
    "task": ["loss=task", "loss.warmup={warmup}"],
}
"""Of each loss the overrides of its training; "{warmup}" becomes a fifth of the updates."""
SEEDS, STEPS = "0,1,2,3,4", 300
# What each set is, and the words of each loss.
SETS = {
    "msrs": ["data=msrs", "data.root={msrs}"],
    "synthetic": ["data=synthetic", "data.train=300", "data.val=20", "data.test=100"],
}
UPDATES = {"msrs": 1600, "synthetic": 800}  # of a task network: some ten passes over the training images
TINY = {
    "msrs": ["data.val=0.02", "loader.crop_size=32"],
    "synthetic": ["data.train=6", "data.val=2", "data.test=4", "data.size=64", "loader.crop_size=32"],
}


def words(loss: Sequence[str], steps: int) -> list[str]:
    """Return the overrides of one training, given those of its loss."""
    return [*SETTINGS, *(word.replace("{warmup}", f"{steps // 5}") for word in loss), f"steps={steps}"]


def train(
    out: Path,
    name: str,
    data: Sequence[str],
    tiny: bool,
    losses: Mapping[str, Sequence[str]] = LOSSES,
    parallel: int = 2,
    clip: str = "micro_1",
) -> None:
    """Choose a learning rate for each loss, then train five seeds at it; `parallel` trainings at a time."""
    steps, seeds = (4, "0,1") if tiny else (STEPS, SEEDS)
    shared = [*data, f"clip={clip}", *(TINY[name] if tiny else [])]
    trial = [*shared, f"optimizer.lr={','.join(map(str, RATES))}", f"seed={TRIAL_SEED}", "test=false"]
    trial += [f"validate_every={steps}", f"metrics.validation=[{','.join(METRICS)}]"]
    trial += ["objective=val/metric/SSIM"]
    run_sweeps({out / "trials" / loss: [*words(losses[loss], steps), *trial] for loss in losses}, parallel)
    chosen = {loss: choose_rate(trial_scores(out / "trials" / loss)) for loss in losses}
    print(f"{out}: learning rates {chosen}", flush=True)
    tuning = ",".join(f"{key}:{json.dumps(value)}" for key, value in TUNING.items())
    final = [*shared, f"tuning={{{tuning}}}", f"seed={seeds}", f"validate_every={steps}"]
    run_sweeps(
        {
            out / "samples" / loss: [*words(losses[loss], steps), *final, f"optimizer.lr={rate}"]
            for loss, rate in chosen.items()
        },
        parallel,
    )


def judge(
    out: Path, tiny: bool, parallel: int = 2, losses: Iterable[str] = LOSSES, updates: int | None = None
) -> None:
    """Train and score the task networks of these losses; what is done before is not done again.

    By default `UPDATES` of the set.
    """
    start = time.time()
    command = [sys.executable, "-m", "clipfuse.cli", "downstream"]
    command += [*(str(out / "samples" / loss) for loss in losses), "bundled"]
    command += [f"out={out / 'samples/downstream-sources'}"]
    command += ["downstream=segmentation", "seeds=[0,1]", f"parallel={parallel}"]
    command += [f"downstream.updates={2 if tiny else updates or UPDATES[out.name]}"]
    command += ["downstream.batch_size=2"] if tiny else []
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    print(f"{out}: task networks {time.time() - start:.0f} s", flush=True)


def save(
    out: Path, folder: Path, *more: str, msrs: str | None = None, losses: Sequence[str] | None = None
) -> None:
    """Write the numbers of a set: trainings with what task networks found and `more` files, and trials.

    Args:
        out: the folder of a set.
        folder: where SET.zip and SET_trials.zip go.
        more: names of further files of the runs.
        msrs: the folder of MSRS, which the zips call data/msrs.
        losses: each has zips of its own in the folders SET and SET_trials, so that a study can be run a part
            at a time, on several machines. By default one zip for all.
    """
    places = {str(msrs): "data/msrs"} if msrs else {}
    names = (*KEPT, "downstream/segmentation/metrics.json", *more)
    if losses is None:
        save_zip(out / "samples", folder / f"{out.name}.zip", names, places=places)
        save_zip(out / "trials", folder / f"{out.name}_trials.zip", places=places)
        return
    for loss in losses:
        kept, trials = folder / out.name / f"{loss}.zip", folder / f"{out.name}_trials" / f"{loss}.zip"
        save_zip(out / "samples", kept, names, [loss, "downstream-sources"], places)
        save_zip(out / "trials", trials, below=[loss], places=places)


def restore_plain(out: Path, zips: Iterable[Path]) -> None:
    """Unpack what task networks found of the plain sources from the first zip that holds it.

    `clipfuse downstream` takes a result only where the images, labels and settings are the same; what is
    missing it trains.
    """
    for path in () if (out / "samples/downstream-sources").exists() else zips:
        with zipfile.ZipFile(path) as archive:
            own = [name for name in archive.namelist() if name.startswith("downstream-sources/")]
            archive.extractall(out / "samples", own)
        if own:
            return


def make_options(doc: str | None, out: str) -> argparse.ArgumentParser:
    """Return a parser for studies of both sets; `out` is the folder of the run folders by default."""
    parser = make_parser(doc)
    parser.add_argument("--msrs", help="folder of MSRS with the parts train and test of our split")
    parser.add_argument("--set", nargs="+", choices=SETS, default=list(SETS), help="the sets to run")
    parser.add_argument("--out", type=Path, default=Path(out), help="of the run folders")
    parser.add_argument("--parallel", type=int, default=2, help="trainings at a time, of one thread each")
    parser.add_argument("--save", action="store_true", help="keep the numbers in results/")
    parser.add_argument("--tiny", action="store_true", help="small sizes: tries the study, measures nothing")
    return parser


def given_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line; MSRS needs its folder."""
    options = parser.parse_args()
    if "msrs" in options.set and not options.msrs:
        parser.error("the set msrs needs its folder: --msrs DIR, or --set synthetic")
    return options


def main() -> None:
    """Run the study, or what is missing of it."""
    options = given_options(make_options(__doc__, "runs/downstream"))
    for name in options.set:
        out = options.out / name
        data = [word.format(msrs=options.msrs) for word in SETS[name]]
        train(out, name, data, options.tiny, parallel=options.parallel)
        judge(out, options.tiny, options.parallel)
        if options.save:
            save(out, RESULTS, msrs=options.msrs)


if __name__ == "__main__":
    main()
