"""What does an update with each loss cost, in time and memory, relative to one with `pixel`?

Every loss is trained as `clipfuse train` does it, as configured in experiments/compare_losses/zoo.py, on
rendered scenes: contourlet_tiny, 8 crops of 64 pixels per update, one thread. Time is the difference between
a longer and a shorter training in processor seconds, so that other programs do not disturb it; memory is the
peak of the process. Each case runs in a process of its own. The weights of ViT-B-32 and VGG are random, which
cost as much as any.

    python -m experiments.benchmarks.losses [--clip micro ViT-B-32] [--loss NAME ...]   (Linux)
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from experiments.common import compose_run, format_table, make_parser
from experiments.compare_losses.zoo import LOSSES, VGG
from experiments.downstream.study import words

# Updates of the shorter and of the longer training; a solver's cycle is 10 updates.
UPDATES = {"micro": (5, 45), "ViT-B-32": (1, 11)}
PLAIN = ["test=false", "objective=val/loss/total", "callbacks.best=null", "callbacks.notes=null"]
PLAIN += ["logger=none", "~callbacks.progress", "+trainer.enable_progress_bar=false"]
DATA = ["data=synthetic", "data.train=16", "data.val=2"]  # an image costs nothing once it is rendered


def random_weights(folder: Path) -> dict[str, Path]:
    """Write weights of ViT-B-32, as OpenAI's is built, and of two VGG into files, by name."""
    import open_clip
    from torchvision.models import vgg16, vgg19

    logging.disable(logging.WARNING)
    models = {
        "vit": lambda: open_clip.create_model("ViT-B-32-quickgelu"),
        "vgg16": lambda: vgg16(weights=None),
        "vgg19": lambda: vgg19(weights=None),
    }
    files = {name: folder / f"{name}.pt" for name in models}
    for name, make in models.items():
        states = make().state_dict()
        torch.save({key: each for key, each in states.items() if "classifier" not in key}, files[name])
    return files


def measure(loss: str, clip: str, folder: str) -> dict[str, float]:
    """Train twice; return seconds per update and peak memory in GB."""
    torch.set_num_threads(1)
    overrides = ["clip=micro"]
    if clip != "micro":
        overrides = ["clip=vit_b32_openai", f"clip.pretrained={folder}/vit.pt"]
    if clip != "micro" or loss == "lpips":
        overrides += [word.format(folder=folder) for word in VGG.get(loss, ())]
    spent = []
    for steps in UPDATES[clip]:
        with tempfile.TemporaryDirectory() as out, redirect_stdout(StringIO()):
            from clipfuse.runs.train import train

            config = compose_run(
                [*words(LOSSES[loss], steps), *DATA, *overrides, *PLAIN, f"run_dir={out}/run"]
            )
            start = time.process_time()
            train(config)
            spent.append(time.process_time() - start)
    first, last = UPDATES[clip]
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return {"seconds": (spent[1] - spent[0]) / (last - first), "memory": peak / 2**20}


def table(found: dict[str, dict[str, float]]) -> list[str]:
    """Return the lines of a table; `pixel` is the unit of time."""
    unit = found["pixel"]["seconds"]
    rows = [
        [loss, f"{each['seconds'] / unit:.1f}", f"{each['seconds']:.3f} s", f"{each['memory']:.1f} GB"]
        for loss, each in found.items()
    ]
    return format_table(["loss", "relative to pixel", "per update", "peak of the process"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each loss in a process of its own, and print a table for each CLIP."""
    parser = make_parser(__doc__)
    parser.add_argument("--clip", nargs="+", choices=UPDATES, default=["micro"])
    parser.add_argument("--loss", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--one", help="measure one loss here, with the weights in this folder; prints JSON")
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measure(options.loss[0], options.clip[0], options.one)))
        return
    with tempfile.TemporaryDirectory() as folder:
        random_weights(Path(folder))
        for clip in options.clip:
            found = {}
            for loss in dict.fromkeys(["pixel", *options.loss]):
                command = [sys.executable, "-m", "experiments.benchmarks.losses"]
                command += ["--one", folder, "--loss", loss, "--clip", clip]
                done = subprocess.run(
                    command,
                    check=True,
                    capture_output=True,
                    text=True,
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                )
                found[loss] = json.loads(done.stdout.splitlines()[-1])
                print(f"{clip}, {loss}: {found[loss]}", file=sys.stderr, flush=True)
            print(f"\n{clip}\n", *table(found), sep="\n")


if __name__ == "__main__":
    main()
