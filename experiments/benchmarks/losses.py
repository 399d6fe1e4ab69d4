"""What does an update with each loss cost, in time and memory, relative to one with `pixel`?

Every loss is trained as `clipfuse train` does it, as configured in experiments/compare_losses/zoo.py, on
rendered scenes: contourlet_tiny, 8 crops of 64 pixels per update, one thread. Time is processor seconds from
update to update, so that other programs disturb it less: the mean of whole cycles of the solver for a loss
with a lower level, else the median. Memory is the peak of the process. Each case runs in a process of its
own. The weights of ViT-B-32 and VGG are random, which cost as much as any.

    python -m experiments.benchmarks.losses [--clip micro ViT-B-32] [--loss NAME ...] [--out FILE]   (Linux)

What `--out` holds is not measured again, so that a long run can be continued.
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
from statistics import fmean, median
from typing import Any

import torch
from experiments.common import compose_run, format_table, make_parser
from experiments.compare_losses.zoo import LOSSES, VGG
from experiments.downstream.study import words
from lightning import Callback, Trainer

# Updates of a training, the first five uncounted: a solver's cycle is 10 updates, a warmup a fifth of them.
STEPS = {"micro": 45, "ViT-B-32": 15}
FIRST = 5
PATIENCE = 60.0  # processor seconds after which a training without a lower level ends, with 3 updates or more
PLAIN = ["test=false", "objective=val/loss/total", "callbacks.best=null", "callbacks.notes=null"]
PLAIN += ["logger=none", "~callbacks.progress", "+trainer.enable_progress_bar=false"]
DATA = ["data=synthetic", "data.train=16", "data.val=2"]  # an image costs nothing once it is rendered


class Clock(Callback):
    """Writes the processor seconds of all updates into a file, and whether the loss has a lower level."""

    def __init__(self, file: str) -> None:
        self.file, self.times = Path(file), [time.process_time()]

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        """Note the time; end a training whose updates are slow and alike."""
        self.times.append(time.process_time())
        spent = self.times[-1] - self.times[0]
        alike = not hasattr(module.solver, "every")
        trainer.should_stop |= alike and len(self.times) > 4 and spent > PATIENCE

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        """Write."""
        spent = [last - first for first, last in zip(self.times[:-1], self.times[1:], strict=True)]
        self.file.write_text(json.dumps({"updates": spent, "nested": hasattr(module.solver, "every")}))


def seconds(updates: Sequence[float], nested: bool) -> float:
    """Return the seconds of an update: their median, or the mean of whole cycles of a solver."""
    counted = updates[min(FIRST, len(updates) // 2) :]
    return fmean(counted) if nested else median(counted)


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


def measure(loss: str, clip: str, folder: str) -> dict[str, Any]:
    """Train; return the seconds of all updates, whether they differ, and peak memory in GB."""
    torch.set_num_threads(1)
    overrides = ["clip=micro"]
    if clip != "micro":
        overrides = ["clip=vit_b32_openai", f"clip.pretrained={folder}/vit.pt"]
    if clip != "micro" or loss == "lpips":
        overrides += [word.format(folder=folder) for word in VGG.get(loss, ())]
    with tempfile.TemporaryDirectory() as out, redirect_stdout(StringIO()):
        from clipfuse.runs.train import train

        clock = f"+callbacks.clock={{_target_:experiments.benchmarks.losses.Clock,file:{out}/seconds}}"
        run = [*words(LOSSES[loss], STEPS[clip]), *DATA, *overrides, *PLAIN, clock, f"run_dir={out}/run"]
        train(compose_run(run))
        found = json.loads(Path(out, "seconds").read_text())
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return {**found, "memory": peak / 2**20}


def table(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return the lines of a table; `pixel` is the unit of time and of memory."""
    each = {name: (seconds(one["updates"], one["nested"]), one["memory"]) for name, one in found.items()}
    unit = each["pixel"]
    rows = [
        [name, f"{time_ / unit[0]:.2f}", f"{memory / unit[1]:.2f}", f"{time_:.3f}", f"{memory:.2f}"]
        for name, (time_, memory) in each.items()
    ]
    return format_table(["loss", "time", "memory", "seconds", "GB"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each loss in a process of its own, and print a table for each CLIP."""
    parser = make_parser(__doc__)
    parser.add_argument("--clip", nargs="+", choices=STEPS, default=["micro"])
    parser.add_argument("--loss", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--out", type=Path, help="JSON file that keeps what has been measured")
    parser.add_argument("--one", help="measure one loss here, with the weights in this folder; prints JSON")
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measure(options.loss[0], options.clip[0], options.one)))
        return
    kept = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        random_weights(Path(folder))
        for clip in options.clip:
            found = kept.setdefault(clip, {})
            for loss in dict.fromkeys(["pixel", *options.loss]):
                if loss in found:
                    continue
                command = [sys.executable, "-m", "experiments.benchmarks.losses"]
                command += ["--one", folder, "--loss", loss, "--clip", clip]
                environment = os.environ | {"OMP_NUM_THREADS": "1"}
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
                found[loss] = json.loads(done.stdout.splitlines()[-1])
                shown = table({name: found[name] for name in ("pixel", loss)})[-1]
                print(clip, shown, file=sys.stderr, flush=True)
                if options.out:
                    options.out.write_text(json.dumps(kept, indent=1))
            print(f"\n{clip}\n", *table(found), sep="\n")


if __name__ == "__main__":
    main()
