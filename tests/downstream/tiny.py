"""A data set of a few labelled pairs in memory, and a task that a process learns in no time.

A module of its own, as the processes of `clipfuse.processes` import the task by its name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipfuse.data.pairs import Pair
from clipfuse.data.transforms import whole
from clipfuse.downstream.base import Example, Task
from clipfuse.downstream.material import Material
from clipfuse.types import FusionBatch, LabelSet

LABELS = LabelSet(("ground", "person"), 0, ((0, 0, 0), (250, 60, 60)), (("day", "D$"), ("night", "N$")))


def tiny_pair(number: int, side: int = 32) -> Pair:
    """A warm square on noise; what is warm is a person."""
    generator = torch.Generator().manual_seed(number)
    classes = torch.zeros(side, side, dtype=torch.uint8)
    top, left = torch.randint(2, side - 12, (2,), generator=generator).tolist()
    classes[top : top + 10, left : left + 8] = 1
    infrared = torch.randint(0, 90, (1, side, side), generator=generator, dtype=torch.uint8) + 120 * classes
    visible = torch.randint(0, 256, (3, side, side), generator=generator, dtype=torch.uint8)
    return Pair(infrared, visible, classes=classes)


class TinyPairs:
    """Four training, one validation and three test pairs."""

    name = "tiny"

    def __init__(
        self,
        labelled: bool = True,
        shift: int = 0,
        lacking: Sequence[str] = (),
        bare: Sequence[str] = (),
    ) -> None:
        self.labelled, self.shift, self.lacking, self.bare = labelled, shift, lacking, bare

    def parts(self) -> Mapping[str, Sequence[str]]:
        return {
            "train": ("0D", "1N", "2D", "3N"),
            "val": ("4D",),
            "test": ("5D", "6N", "7D"),
        }

    def load(self, sample_id: str) -> Pair:
        pair = tiny_pair(int(sample_id[:-1]) + self.shift)
        if sample_id in self.bare:  # of the ground alone
            assert pair.classes is not None
            return replace(pair, classes=torch.zeros_like(pair.classes))
        return replace(pair, classes=None) if sample_id in self.lacking else pair

    def labels(self) -> LabelSet | None:
        return LABELS if self.labelled else None

    def scenes(self) -> Mapping[str, str]:
        return {"5D": "yard", "7D": "yard"}

    def fingerprint(self) -> str:
        return f"tiny-{self.shift}"

    def pair(self, name: str) -> FusionBatch:
        return whole(self.load(name), name)


class TinyTask(Task):
    """Segmentation by one convolution; its judgement is the confusion matrix."""

    name = "segmentation"
    needs = "classes"

    def __init__(self, updates: int = 12, batch_size: int = 2, fails_at: int = -1) -> None:
        self.updates, self.batch_size, self.learning_rate = updates, batch_size, 0.3
        self.weight_decay, self.crop, self.scale = 0.0, (32, 32), (1.0, 1.5)
        self.fails_at = fails_at

    def settings(self) -> dict[str, Any]:
        return {"updates": self.updates, "crop": self.crop}

    def check(self, labels: LabelSet, train: Sequence[Example], test: Sequence[Example]) -> None:
        assert all(each.classes is not None for each in [*train, *test])

    def build(self, labels: LabelSet, channels: int, seed: int) -> nn.Module:
        if seed == self.fails_at:
            raise KeyboardInterrupt
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Conv2d(channels, len(labels), 3, padding=1)

    def loss(self, network: nn.Module, images: Tensor, examples: Sequence[Example]) -> Tensor:
        truth = torch.stack([each.classes for each in examples if each.classes is not None]).long()
        weight = torch.tensor([1.0, 6.0])
        return nn.functional.cross_entropy(network(images), truth, weight, ignore_index=255)

    def judge(self, network: nn.Module, labels: LabelSet, example: Example) -> dict[str, Any]:
        found = network(example.image[None].float() / 255)[0].argmax(0).to(torch.uint8)
        assert example.classes is not None
        pairs = (2 * example.classes.long() + found).flatten()
        return {"confusion": torch.bincount(pairs, minlength=4).reshape(2, 2).tolist(), "map": found}

    def scores(self, labels: LabelSet, judgements: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        total = sum(torch.tensor(each["confusion"], dtype=torch.float64) for each in judgements)
        assert isinstance(total, Tensor)
        iou = (total.diag() / (total.sum(0) + total.sum(1) - total.diag())).nan_to_num(0)
        classes = {f"IoU/{name}": 100 * float(value) for name, value in zip(labels.names, iou, strict=True)}
        return {"mIoU": 100 * float(iou.mean()), "none": float("nan"), **classes}

    def draw(self, labels: LabelSet, example: Example, judgement: Any) -> Tensor:
        found: Any = example.classes if judgement is None else judgement["map"]
        return torch.where(found == 1, 255, example.image[:3]).to(torch.uint8)


def material(task: Task | None = None, channels: str = "color", shift: int = 0) -> Material:
    data = TinyPairs(shift=shift)
    return Material(
        task or TinyTask(),
        LABELS,
        data.pair,
        data.parts(),
        data.scenes(),
        data.fingerprint(),
        channels,
    )


def write_options(folder: Path) -> None:
    """Write a search path of Hydra with this data set and this task, `data=tiny downstream=tiny`."""
    settings = {"data/tiny": ("TinyPairs", "labelled: true\nshift: 0\nlacking: []\nbare: []\n")}
    settings["downstream/tiny"] = ("TinyTask", "updates: 12\n")
    for name, (target, rest) in settings.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# tiny\n_target_: tests.downstream.tiny.{target}\n{rest}")
