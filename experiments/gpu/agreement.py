"""The parts that compare trainings: CPU with GPU, resumed with uninterrupted."""

import copy
import csv
import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from experiments.common import compose_run
from experiments.compare_losses.study import LOSSES
from experiments.gpu.case import Case, Machine, Part, relative, verdict
from experiments.gpu.meter import Cut
from experiments.gpu.training import PLAIN, accelerator, run, words
from torch import Tensor

from clipfuse.bilevel.descent import gradients as slopes
from clipfuse.data.synthetic import SyntheticPairs
from clipfuse.data.transforms import collate, whole
from clipfuse.losses.base import FusionLoss
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.runs.build import build
from clipfuse.training.stepping import LossProblem, lower_parameters
from clipfuse.types import LossInputs

# Equality of CPU and GPU --------------------------------------------------------------------------------

LOSS_TOLERANCES = {"64-true": (1e-9, 1e-8), "32-true": (1e-3, 1e-2)}
"""Of value and gradient. A cosine of CLIP is rounded to about 10 units in the last place (1e-6 in float32)
and multiplied by 100 before it is judged, so that 1e-4 is rounding; ten times that is allowed for the value,
and a hundred for the gradient, where the L1 terms have a sign that rounding can turn. In float64 the unit is
2^29 times smaller: 1e-9 and 1e-8 leave still more room, and only an error of ours can reach them. On a CPU
float32 and float64 differ by at most 1e-7 and 1e-4 (ldfusion)."""
UPDATE_TOLERANCES = {"64-true": (1e-7, 1e-5), "32-true": (1e-2, 0.3)}
"""Of the five losses and of what five updates changed in the weights. Adam divides each gradient by its own
size: in float32 a weight, or a prompt, whose gradient is only rounding moves as far as others. On a CPU
promptfusion's float32 and float64 differ by 3e-3 and 0.1, of which three times is allowed. In float64 Adam's
epsilon, 1e-8, is far above such a gradient: one thread and two differ by 1e-15 and 4e-14."""


MORE = ("autofuse", "text_weights", "region_contrast", "learned_loss", "adversarial", "reward", "gradnorm")
"""Losses that are compared, but whose speed is not measured, beside those of the first study."""


def loss_inputs(machine: Machine, dtype: torch.dtype) -> LossInputs:
    """Return rendered scenes, an untrained network's features, and a fused image that equals no band."""
    count, side = (2, 64) if machine.tiny else (4, 96)
    source = SyntheticPairs(train=1, val=1, test=count, size=side)
    batch = collate([whole(source.load(name)) for name in source.parts()["test"]])
    torch.manual_seed(0)
    network = build(compose_run(["run_dir=x"]).backbone, "backbone")
    with torch.no_grad():
        features = network(batch.infrared, batch.visible).features
    noise = torch.rand(batch.visible.shape, generator=torch.Generator().manual_seed(0))
    fused = 0.55 * batch.infrared + 0.4 * batch.visible + 0.05 * noise
    inputs = LossInputs(fused, batch.infrared, batch.visible, batch.chroma, features)
    return moved(inputs, lambda tensor: tensor.to(dtype))


def moved(inputs: LossInputs, move: Callable[[Tensor], Tensor]) -> LossInputs:
    """Return the record with every tensor of it moved."""
    planes: dict[str, Any] = {
        name: move(value) for name, value in vars(inputs).items() if isinstance(value, Tensor)
    }
    return replace(inputs, **planes, features={key: move(each) for key, each in inputs.features.items()})


def levels(loss: FusionLoss, inputs: LossInputs) -> dict[str, Tensor]:
    """Return the loss and its gradients to the fused image and the prompts; the same of its lower level."""
    fused = inputs.fused.detach().requires_grad_()
    problem = LossProblem(loss, replace(inputs, fused=fused))
    lower = [value.detach().requires_grad_() for value in lower_parameters(loss)]
    total = problem.upper_loss(lower)
    gradients = slopes(total, [fused, *lower])
    found = {"value": total, "gradient": gradients[0]}
    if lower:
        found["prompt_gradient"] = _row(gradients[1:])
        problem = LossProblem(loss, inputs)
        total = problem.lower_loss(lower)
        found |= {"lower_value": total, "lower_gradient": _row(slopes(total, lower))}
    return found


def _row(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def compare_loss(machine: Machine, loss: str, precision: str) -> dict[str, Any]:
    """Return the relative differences of the two devices."""
    dtype = torch.float64 if precision == "64-true" else torch.float32
    inputs = loss_inputs(machine, dtype)
    built = build(compose_run(["run_dir=x", "clip=micro", *words(loss)]).loss, "loss").to(dtype).train()
    clips = {id(clip): clip for part in built.modules() if (clip := getattr(part, "clip", None)) is not None}
    other = copy.deepcopy(built).to(machine.device)
    try:
        for clip in clips.values():
            clip.to(dtype=dtype)
        expected = levels(built, inputs)
        found = levels(other, moved(inputs, lambda tensor: tensor.to(machine.device)))
    finally:
        for clip in clips.values():  # others may use it
            clip.to(device="cpu", dtype=torch.float32)
    value, gradient = LOSS_TOLERANCES[precision]
    return verdict(
        **{
            name: (
                relative(found[name], expected[name]),
                value if "value" in name else gradient,
            )
            for name in expected
        }
    )


def tiny_words(machine: Machine, loss: str, data: int = 64) -> list[str]:
    """Return the overrides of a training of a few updates, of the size that a part of this check can pay."""
    small = ["backbone=conv_tiny", "backbone.width=8", "backbone.depth=1"] if machine.tiny else []
    if machine.tiny and loss.startswith("promptfusion"):
        small.append("loss.fidelity.decomposition_weight=0")
    if loss == "autofuse":  # its patches are a small share of the image
        small.append("loss.patch_side=[0.5,0.8]")
    return [
        *PLAIN,
        *words(loss),
        "clip=micro",
        *small,
        "data.train=4",
        "data.val=1",
        "data.test=1",
        f"data.size={data}",
        f"loader.crop_size={data // 2}",
        "loader.batch_size=2",
        "trainer.log_every_n_steps=1",
    ]


def updates(device: torch.device, overrides: Sequence[str], folder: Path) -> tuple[Tensor, Tensor]:
    """Return five losses, and what five updates changed in the network, on a device."""
    shutil.rmtree(folder, ignore_errors=True)
    overrides = [
        *overrides,
        accelerator(device),
        "steps=5",
        "validate_every=5",
        f"run_dir='{folder}'",
    ]
    run(overrides)
    config = compose_run(overrides)
    L.seed_everything(config.seed, workers=True, verbose=False)
    start = build(config.backbone, "backbone").state_dict()
    end = read_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"]
    changes = [(end[f"backbone.{name}"].double() - value.double()).flatten() for name, value in start.items()]
    with (folder / "metrics.csv").open(newline="") as file:
        losses = [float(row["train/loss/total"]) for row in csv.DictReader(file)]
    assert len(losses) == 5
    return torch.tensor(losses, dtype=torch.float64), torch.cat(changes)


def compare_updates(machine: Machine, loss: str, precision: str) -> dict[str, Any]:
    """Return the relative differences of five updates on the two devices."""
    overrides = [*tiny_words(machine, loss), f"trainer.precision={precision}"]
    expected = updates(torch.device("cpu"), overrides, machine.folder / "cpu")
    found = updates(machine.device, overrides, machine.folder / "device")
    value, weights = UPDATE_TOLERANCES[precision]
    return verdict(
        losses=(relative(found[0], expected[0]), value),
        change=(relative(found[1], expected[1]), weights),
    )


def equality_settings(machine: Machine) -> dict[str, Any]:
    return {"tf32": False, "clip": "micro", "backbone": "conv_tiny" if machine.tiny else "contourlet_tiny"}


def without_tf32(measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Measure without TF32, in which torch computes convolutions by default: it rounds to 10 bits."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        return measure(*arguments)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def rows(
    machine: Machine, measure: Callable[..., dict[str, Any]], losses: Sequence[str], few: Sequence[str]
) -> list[Case]:
    """Return a row for each loss in float64 and float32, or for a few."""
    return [
        Case(
            {"loss": loss, "precision": precision},
            functools.partial(without_tf32, measure, machine, loss, precision),
        )
        for precision in ("64-true", "32-true")
        for loss in (few if machine.tiny else losses)
    ]


def loss_cases(machine: Machine) -> list[Case]:
    """Return each loss once, whatever solves its lower level."""
    losses = [*(loss for loss in LOSSES if loss != "promptfusion_alternate"), *MORE]
    return rows(machine, compare_loss, losses, losses)


def update_cases(machine: Machine) -> list[Case]:
    return rows(machine, compare_updates, [*MORE, *LOSSES], ["promptfusion", "learned_loss"])


# Resuming -----------------------------------------------------------------------------------------------


def tensors(content: Any, name: str = "") -> dict[str, Tensor]:
    """Return the tensors in nested containers by their place."""
    if isinstance(content, Tensor):
        return {name: content.detach().cpu()}
    pairs: Sequence[tuple[Any, Any]] = ()
    if isinstance(content, Mapping):
        pairs = list(content.items())
    elif isinstance(content, list | tuple):
        pairs = list(enumerate(content))
    found: dict[str, Tensor] = {}
    for key, value in pairs:
        found |= tensors(value, f"{name}/{key}")
    return found


def end_of(folder: Path) -> dict[str, Tensor]:
    """Return all weights and moments at the end of a run."""
    checkpoint = read_checkpoint(folder / "checkpoints/last.ckpt")
    return tensors({key: checkpoint[key] for key in ("state_dict", "optimizer_states")})


def largest(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """Return the largest difference of two ends; infinite where one lacks what the other has."""
    if first.keys() != second.keys() or any(first[name].shape != second[name].shape for name in first):
        return float("inf")
    return max(
        float((first[name].double() - second[name].double()).abs().max())
        for name in first
        if first[name].numel()
    )


def measure_resume(machine: Machine, loss: str, precision: str) -> dict[str, Any]:
    """Compare a training that was cut after update 3 of 5 and went on from update 2 with one that was not."""
    overrides = [
        *tiny_words(machine, loss),
        accelerator(machine.device),
        f"trainer.precision={precision}",
        "steps=5",
        "validate_every=2",
        "metrics.validation=[SSIM]",
        "logger=none",
    ]
    folders = [machine.folder / name for name in ("straight", "again", "resumed")]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    odd: list[str] = []
    for folder in folders[:2]:
        odd += run([*overrides, f"run_dir='{folder}'"])
    resumed = [*overrides, f"run_dir='{folders[2]}'"]
    try:
        run([*resumed, "+callbacks.cut={_target_: experiments.gpu.meter.CutOff, updates: 3}"])
    except Cut:
        pass
    else:
        raise RuntimeError("the training was not cut off")
    before = read_checkpoint(folders[2] / "checkpoints/last.ckpt")["global_step"]
    run([*resumed, "auto_resume=true"])
    straight, again, end = (end_of(folder) for folder in folders)
    two_runs = largest(again, straight)
    return {
        "went_on_from_update": before,
        "two_uninterrupted": two_runs,
        **verdict(difference=(largest(end, straight), 3 * two_runs)),
        "not_deterministic": ", ".join(sorted(set(odd))) or "-",
    }


def resume_cases(machine: Machine) -> list[Case]:
    """Return a plain loss, a CLIP loss and one with a lower level."""
    return [
        Case(
            {"loss": loss, "precision": precision},
            functools.partial(measure_resume, machine, loss, precision),
        )
        for precision in (("32-true",) if machine.tiny else ("32-true", "bf16-mixed"))
        for loss in ("promptfusion", "ldfusion", "pixel")
    ]


PARTS = {
    "losses": Part(
        "Are losses and gradients on this device those of the CPU?", 40, equality_settings, loss_cases
    ),
    "updates": Part(
        "Do five updates on this device train as on the CPU?", 75, equality_settings, update_cases
    ),
    "resume": Part(
        "Does a training on this device go on as if nothing had happened?",
        35,
        lambda machine: {"steps": 5, "cut_after": 3, "clip": "micro", "deterministic": "warn"},
        resume_cases,
    ),
}
