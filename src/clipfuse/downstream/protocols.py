"""The two named protocols by which sources of images are judged. Numbers of other versions do not compare.

Input: the fused colour image (luma of the network, chroma of the visible image) as 8-bit RGB, as the field
does it; `both` has four channels: red, green, blue, infrared. Every choice is the same for all sources.

retrained-1
    For each source and each seed one task network starts from the same weights, is trained on the images of
    the source's training part (`clipfuse.downstream.learning`) and judged on those of its test part.
frozen-1
    One network for each seed judges all sources. It is trained once, with as many updates as retrained-1, on
    the training parts of all plain sources together (infrared, visible, average, maximum; each image once
    per pass), or taken from a file; it has seen no fused image.
"""

import math
import re
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from clipfuse.downstream.base import Example, Judgement, Progress, Task
from clipfuse.downstream.learning import learn, own_randomness
from clipfuse.errors import UserError
from clipfuse.types import LabelSet

RETRAINED = "retrained-1"
FROZEN = "frozen-1"
PLAIN = ("infrared", "visible", "average", "maximum")
"""The sources on which the network of frozen-1 is trained, in this order."""


def check_files(task: Task, labels: LabelSet, protocol: str) -> None:
    """Require that files of networks are named for frozen-1 alone, and that one to be read fits.

    Raises:
        UserError: names the setting, or what is wrong with the file.
    """
    for key in ("weights", "save"):
        if protocol != FROZEN and getattr(task, key) is not None:
            raise UserError(f"{protocol} trains its networks itself; downstream.{key} is for {FROZEN}")
    task.trained(labels, 3)


def retrained(
    task: Task,
    labels: LabelSet,
    train: Sequence[Example],
    test: Sequence[Example],
    seed: int,
    progress: Progress | None = None,
    device: str | torch.device = "cpu",
    losses: list[float] | None = None,
) -> dict[str, Judgement]:
    """Train a network on one source and judge the source's test images with it, by retrained-1.

    Args:
        task: segmentation or detection.
        labels: what the labels mean.
        train: the images of the training part, of one number of channels.
        test: the images of the test part, with other names.
        seed: of the task, not of the fusion.
        progress: called with steps done and all steps: updates, then test images.
        device: where the network is.
        losses: takes the loss of each update, if it is given.

    Returns:
        The judgement of each test image by name.

    Raises:
        UserError: the task cannot be trained or judged on these images, or its encoder cannot be loaded.
    """
    channels = _channels({"train": train, "test": test})
    check_files(task, labels, RETRAINED)
    task.check(labels, train, test)
    network = task.build(labels, channels, seed).to(device)
    steps = _Steps(progress, task.updates + len(test))
    of_updates = learn(task, network, train, seed, steps.at)
    if losses is not None:
        losses += of_updates
    return _judged(task, labels, network, test, steps)


def frozen(
    task: Task,
    labels: LabelSet,
    train_of: Mapping[str, Sequence[Example]],
    test_of: Mapping[str, Sequence[Example]],
    seed: int,
    progress: Progress | None = None,
    device: str | torch.device = "cpu",
    losses: list[float] | None = None,
) -> dict[str, dict[str, Judgement]]:
    """Judge the test images of all sources with one network that saw none of them, by frozen-1.

    Args:
        task: segmentation or detection.
        labels: what the labels mean.
        train_of: by plain source, the images of the training part; an equal mix is trained on.
        test_of: by source, the images of the test part.
        seed: of the task.
        progress: called with steps done and all steps.
        device: where the network is.
        losses: takes the loss of each update, if it is given.

    Returns:
        By source, the judgement of each test image by name.

    Raises:
        UserError: as `retrained`; a source of other channels than the network's, such as `both`.
    """
    channels = _channels({**train_of, **test_of})
    tests = sum(len(each) for each in test_of.values())
    network = task.trained(labels, channels)
    if network is None:
        counts = {name: len(each) for name, each in train_of.items()}
        if len(set(counts.values())) != 1:
            raise UserError(f"frozen-1 needs as many training images of each source; found {counts}")
        mix = [example for each in zip(*train_of.values(), strict=True) for example in each]
        steps = _Steps(progress, task.updates + tests)
        for test in test_of.values():
            task.check(labels, mix, test)
        network = task.build(labels, channels, seed).to(device)
        of_updates = learn(task, network, mix, seed, steps.at)
        if losses is not None:
            losses += of_updates
        task.keep(network, labels, seed)
    else:
        steps = _Steps(progress, tests)
        network = network.to(device).eval()
    return {name: _judged(task, labels, network, test, steps) for name, test in test_of.items()}


def scored(task: Task, labels: LabelSet, judgements: Mapping[str, Judgement]) -> dict[str, float]:
    """Return the scores of all images, then the overall ones of each group as "mIoU/night".

    Args:
        task: the one that judged.
        labels: with `groups`, whose expressions are searched for in the names of the images.
        judgements: by name of the image.
    """
    scores = task.scores(labels, list(judgements.values()))
    overall = [name for name in scores if "/" not in name]
    for group, expression in labels.groups:
        found = [judgements[name] for name in judgements if re.search(expression, name)]
        apart = task.scores(labels, found) if found else dict.fromkeys(overall, math.nan)
        scores |= {f"{name}/{group}": apart[name] for name in overall}
    return scores


class _Steps:
    """Progress over updates and judged images."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def at(self, done: int, _: int = 0) -> None:
        self.done = done
        if self.progress is not None:
            self.progress(done, self.total)


def _judged(
    task: Task, labels: LabelSet, network: nn.Module, test: Sequence[Example], steps: _Steps
) -> dict[str, Judgement]:
    judgements = {}
    with own_randomness(), torch.no_grad():
        for example in test:
            judgements[example.name] = task.judge(network, labels, example)
            steps.at(steps.done + 1)
    return judgements


def _channels(parts: Mapping[str, Sequence[Example]]) -> int:
    """Require images, all of one number of channels, and return it."""
    first: tuple[str, int] | None = None
    for part, examples in parts.items():
        if not examples:
            raise UserError(
                f"no images in '{part}'; a task needs images with labels in training and test part"
            )
        names = [each.name for each in examples]
        if len(set(names)) < len(names):
            raise ValueError(f"'{part}' has two images of one name")
        for each in examples:
            first = first or (f"'{part}'", each.image.shape[0])
            if each.image.shape[0] != first[1]:
                raise UserError(
                    f"image {each.name} of '{part}' has {each.image.shape[0]} channels, those of {first[0]} "
                    f"have {first[1]}; one network takes one number of channels ('both' is retrained alone)"
                )
    assert first is not None
    return first[1]
