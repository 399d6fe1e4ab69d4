"""The part that compares task networks, and the loss that sees labels, on CPU and GPU."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from experiments.common import compose_run
from experiments.gpu.agreement import LOSS_TOLERANCES, levels, loss_inputs, moved, without_tf32
from experiments.gpu.case import Case, Machine, Part, relative, verdict

from clipfuse.data.synthetic import SyntheticPairs
from clipfuse.data.transforms import whole
from clipfuse.downstream.base import Example, Task
from clipfuse.downstream.detection import Detection
from clipfuse.downstream.learning import learn
from clipfuse.downstream.segmentation import Segmentation
from clipfuse.ops.color import luma_chroma_to_rgb
from clipfuse.ops.depth import to_bytes
from clipfuse.runs.build import build
from clipfuse.types import LabelSet

UPDATES = 4
FIRST, LATER = 1e-4, 3e-2
"""Of the loss of the first update: float32 rounds to 6e-8, and about a thousand roundings of one sign are
allowed. Of the later ones: AdamW divides each gradient by its own size, so that in the first updates a weight
whose gradient is only rounding moves as far as others; a tenth of what `UPDATE_TOLERANCES` allows weights."""
JUDGED = 1e-3
"""Of logits of one network: of 40 layers without training. Boxes are not compared: which of two equal scores
comes first is rounding."""


def examples(side: int, count: int) -> tuple[LabelSet, list[Example]]:
    """Return rendered visible images with their classes and boxes."""
    source = SyntheticPairs(train=1, val=1, test=count, size=side)
    found = []
    for name in source.parts()["test"]:
        pair = whole(source.load(name), name)
        assert pair.classes is not None
        assert pair.boxes is not None
        image = to_bytes(luma_chroma_to_rgb(pair.visible[0], pair.chroma[0]))
        found.append(Example(name, name, image, pair.classes[0].to(torch.uint8), pair.boxes[0]))
    return source.labels(), found


def task_of(machine: Machine, name: str) -> Task:
    """Return a small task of a few updates."""
    side = 64 if machine.tiny else 128
    options: dict[str, Any] = {
        "updates": UPDATES,
        "batch_size": 2,
        "crop": (side, side),
        "learning_rate": 1e-3,
    }
    return Segmentation(**options) if name == "segmentation" else Detection(size=side, **options)


def compare_learning(machine: Machine, name: str) -> dict[str, Any]:
    """Return the relative differences of the losses of a few updates; of segmentation of logits, too."""
    task = task_of(machine, name)
    labels, given = examples(64 if machine.tiny else 128, 4)
    losses, logits = [], []
    for device in (torch.device("cpu"), machine.device):
        network = task.build(labels, 3, 0).to(device)
        if name == "segmentation":
            with torch.no_grad():
                images = torch.stack([each.image for each in given]).to(device).float() / 255
                logits.append(network.eval()(images))
        losses.append(torch.tensor(learn(task, network, given, 0), dtype=torch.float64))
    first, later = (relative(losses[1][part], losses[0][part]) for part in (slice(0, 1), slice(1, None)))
    more = {"logits": (relative(logits[1], logits[0]), JUDGED)} if logits else {}
    return verdict(first_loss=(first, FIRST), later_losses=(later, LATER), **more)


def compare_task_loss(machine: Machine, precision: str) -> dict[str, Any]:
    """Return the relative differences of both levels of `loss=task`: values and gradients."""
    dtype = torch.float64 if precision == "64-true" else torch.float32
    inputs = loss_inputs(machine, dtype)
    side, count = inputs.fused.shape[-1], len(inputs.fused)
    classes = torch.stack([each.classes for each in examples(side, count)[1] if each.classes is not None])
    inputs = replace(inputs, classes=classes.long(), step=10)
    words = ["run_dir=x", "loss=task", "loss.warmup=0", "loss.held_out=0.5"]
    on_cpu, on_device = (build(compose_run(words).loss, "loss").to(dtype).train() for _ in range(2))
    expected = levels(on_cpu, inputs)
    found = levels(on_device.to(machine.device), moved(inputs, lambda tensor: tensor.to(machine.device)))
    value, gradient = LOSS_TOLERANCES[precision]
    return verdict(
        **{
            name.replace("prompt", "network"): (
                relative(found[name], expected[name]),
                value if "value" in name else gradient,
            )
            for name in expected
        }
    )


def cases(machine: Machine) -> list[Case]:
    """Return the rows: two task networks in training, and the loss in two precisions."""
    learning = [
        Case(
            {"what": name, "precision": "32-true"},
            lambda name=name: without_tf32(compare_learning, machine, name),  # type: ignore[misc]
        )
        for name in ("segmentation", "detection")
    ]
    losses = [
        Case(
            {"what": "loss=task", "precision": precision},
            lambda precision=precision: without_tf32(  # type: ignore[misc]
                compare_task_loss, machine, precision
            ),
        )
        for precision in LOSS_TOLERANCES
    ]
    return [*losses, *learning]


def settings(machine: Machine) -> Mapping[str, Any]:
    """Return what the rows were measured with."""
    return {"tf32": False, "updates": UPDATES, "side": 64 if machine.tiny else 128}


PARTS = {
    "seeing": Part(
        "Do task networks, and the loss that sees labels, learn as on the CPU?", 35, settings, cases
    )
}
