"""The part that measures the speed of training, and what every part that trains needs."""

import functools
import json
import logging
import re
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from experiments.common import compose_run
from experiments.compare_losses import zoo
from experiments.compare_losses.study import LOSSES
from experiments.gpu.case import Case, Machine, Part

from clipfuse.clip.encoder import FrozenClip
from clipfuse.runs.train import train

ARCHITECTURE = "ViT-B-32"
PLAIN = [
    "data=synthetic",
    "test=false",
    "objective=loss",
    "callbacks.best=null",
    "callbacks.notes=null",
    "~callbacks.progress",
    "+trainer.enable_progress_bar=false",
]
TRAINED = [*PLAIN, "data.train=16", "data.val=1", "data.test=1"]
"""Few scenes: rendering is paid once, so that the steps and not the renderer are measured."""


def words(loss: str) -> list[str]:
    """Return the overrides of a loss, past the stage in which promptfusion's guidance waits."""
    found = LOSSES.get(loss) or zoo.LOSSES[loss]
    return [*found, *(["loss.warmup=0"] if loss.startswith("promptfusion") else [])]


def accelerator(device: torch.device) -> str:
    """Return the override that trains on a device."""
    return f"trainer.accelerator={'gpu' if device.type == 'cuda' else 'cpu'}"


def run(overrides: Sequence[str]) -> list[str]:
    """Train quietly; return the operations that warned of having no deterministic form on this device."""
    config = compose_run(overrides)
    with warnings.catch_warnings(record=True) as said, redirect_stdout(StringIO()):
        warnings.simplefilter("always")
        train(config)
    found = (re.match(r"(\S+) does not have a deterministic", str(each.message)) for each in said)
    return sorted({match[1] for match in found if match})


@functools.cache
def random_clip(folder: Path) -> tuple[FrozenClip, Path]:
    """Return an untrained ViT-B/32, kept so that it is read once, and its file: cost does not see weights."""
    import open_clip

    torch.manual_seed(0)
    path = folder / "vit.pt"
    logging.disable(logging.WARNING)  # that the weights are random
    try:
        torch.save(open_clip.create_model(ARCHITECTURE).state_dict(), path)
    finally:
        logging.disable(logging.NOTSET)
    return FrozenClip.load(ARCHITECTURE, pretrained=str(path)), path


@functools.cache
def random_vgg(folder: Path) -> str:
    """Return the file of an untrained VGG19, which ldfusion asks where the CLIP is not micro."""
    from experiments.benchmarks.ldfusion_step import make_vgg  # imports torch's compiler

    return make_vgg(str(folder))[1]


def clip_words(clip: str, loss: str, folder: Path) -> list[str]:
    """Return the overrides that choose a CLIP for a loss."""
    if clip == "micro":
        return ["clip=micro"]
    chosen = ["clip=custom", f"clip.model={ARCHITECTURE}", f"clip.pretrained='{random_clip(folder)[1]}'"]
    where = {"ldfusion": "loss.vgg_weights", "weighted_sum": "+loss.of.ldfusion.vgg_weights"}
    return [*chosen, *([f"{where[loss]}='{random_vgg(folder)}'"] if loss in where else [])]


def speed_settings(machine: Machine) -> dict[str, Any]:
    if machine.tiny:
        return {"backbone": "conv_tiny", "crop_size": 32, "data.size": 64, "seconds": 0.0, "every": 2}
    return {"backbone": "contourlet_tiny", "crop_size": 96, "data.size": 128, "seconds": 0.7, "every": 10}


def measure_speed(machine: Machine, loss: str, clip: str, batch: int, precision: str) -> dict[str, Any]:
    """Train with a `StepMeter` and return what it found."""
    settings = speed_settings(machine)
    bilevel = loss.startswith("promptfusion")
    cycle = settings["every"] if bilevel else 1
    figures = machine.folder / "figures.json"
    figures.unlink(missing_ok=True)
    meter = {
        "_target_": "experiments.gpu.meter.StepMeter",
        "path": f"'{figures}'",
        "cycle": cycle,
        "warm": cycle if machine.tiny else max(5, cycle),
        "seconds": settings["seconds"],
    }
    overrides = [
        *TRAINED,
        *words(loss),
        *clip_words(clip, loss, machine.folder),
        *([f"solver.every={cycle}"] if bilevel else []),
        *(["loss.fidelity.decomposition_weight=0"] if bilevel and machine.tiny else []),
        accelerator(machine.device),
        f"trainer.precision={precision}",
        f"backbone={settings['backbone']}",
        f"loader.crop_size={settings['crop_size']}",
        f"data.size={settings['data.size']}",
        f"loader.batch_size={batch}",
        "steps=1000",
        "logger=none",
        "~callbacks.last",
        f"+callbacks.meter={{{', '.join(f'{key}: {value}' for key, value in meter.items())}}}",
        f"run_dir='{machine.folder / 'speed'}'",
        "overwrite=true",
    ]
    run(overrides)
    found: dict[str, Any] = json.loads(figures.read_text())
    return found


def speed_cases(machine: Machine) -> list[Case]:
    """Return small before large and micro before ViT, so that what the time does not allow is the largest."""
    batches, precisions = (
        ((2,), ("bf16-mixed", "32-true")) if machine.tiny else ((16, 64), ("bf16-mixed", "32-true"))
    )
    rows = [
        (clip, batch, precision, loss)
        for clip in ("micro", ARCHITECTURE)
        for batch in batches
        for precision in precisions
        for loss in LOSSES
        if clip == "micro" or loss != "pixel"
    ]
    if machine.tiny:
        rows = [row for row in rows if row[0] == "micro" or row[2:] == ("32-true", "clip_ratio")]
    return [
        Case(
            {"loss": loss, "clip": clip if loss != "pixel" else "-", "batch": batch, "precision": precision},
            functools.partial(measure_speed, machine, loss, clip, batch, precision),
        )
        for clip, batch, precision, loss in rows
    ]


PARTS = {
    "training": Part("What does an update of each loss cost?", 115, speed_settings, speed_cases),
}
