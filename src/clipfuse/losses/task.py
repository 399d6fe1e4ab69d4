"""The loss of a task on the fused image: a network should find there the class of each pixel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from clipfuse.errors import UserError
from clipfuse.losses.base import BilevelLoss, FusionLoss, LossArtifacts, named_errors, require
from clipfuse.ops import sending
from clipfuse.ops.checks import unknown_class
from clipfuse.ops.color import luma_chroma_to_rgb
from clipfuse.ops.drawing import class_colors
from clipfuse.ops.modes import evaluating
from clipfuse.ops.ranks import mean_over_ranks
from clipfuse.ops.seeding import derived_seed
from clipfuse.ops.segmenter import load_weights
from clipfuse.types import IGNORED, LabelSet, LossInputs, LossOutput

_LOSS = "task"


@dataclass(frozen=True)
class _State:
    """What both levels share in one update.

    Attributes:
        fidelity: fidelity loss of the fused image, with graph.
        images: fused colour images, (N, 3, H, W); with graph once the network is guided.
        classes: (N, H, W) int64, 0 where there is no label.
        weights: weight of each pixel, (N, H, W); they add up to 1 in each image, to 0 in one without labels.
        judged: the samples whose images F judges.
        learnt: those that the task network learns from.
        guided: whether the warm-up is over.
    """

    fidelity: LossOutput
    images: Tensor
    classes: Tensor
    weights: Tensor
    judged: Sequence[int]
    learnt: Sequence[int]
    guided: bool


class TaskLoss(BilevelLoss):
    """Upper level: the fusion network under fidelity and task. Lower level: the task network.

    F = fidelity + w l(x, y; judged samples),   f = l(x, y; the other samples)

    l is the cross-entropy of the task network y on the fused colour image: fused luma with the chroma of the
    visible image, or the one that the fusion network learns. It is a mean over samples, those of all ranks,
    of the weighted mean over the labelled pixels of each; a pixel of a class that has n pixels in its image
    weighs n^-balance. Pixels and images without labels count nowhere; where there are no others l is 0.

    The task network is

    - frozen (`frozen=true`, `weights=FILE`): there is no lower level, and F judges all samples;
    - or learns beside the fusion network, by the solver. `solver=alternate` is the scheme of SeAFusion and
      SegMiF; `value_penalty` and `gauss_newton` also consider that y depends on the fused images.

    `held_out` divides the samples, once for the whole training by (seed, sample id): F judges y on samples
    from which y does not learn, as a task network is trained on some images and judged on others. With
    `held_out=0`, as in the papers, both levels have the same l. Then dF/dy = w df/dy, which vanishes where y
    is optimal: the direct gradient is all of the hypergradient, and bi-level solvers have nothing to
    add; `gauss_newton` even removes the guidance, as its quotient is w away from the optimum.

    In the first `warmup` updates the fusion network learns fidelity alone, and y learns from what it fuses.

    Source: SeAFusion (Information Fusion 82, 2022) for a segmentation loss on the fused image beside a
    fidelity loss, and training in turns; TarDAL (CVPR 2022) and SegMiF (ICCV 2023) for fusion and task as two
    levels. Own design: the division of samples, weights of pixels without statistics of the data set, and a
    network that is a pure function, which the solvers need. Detection is not built: the losses of detectors
    draw samples at random and depend on the number of objects in a batch.

    Args:
        fidelity: another loss.
        network: the task network, (N, 3, H, W) -> logits (N, C, H, W) or a mapping with these as "out"; it is
            used in evaluation mode.
        weight: w, 0 or more.
        frozen: whether the task network stays as it is in `weights`.
        weights: a file for `clipfuse.ops.segmenter.load_weights`; None: the network as it was made.
        held_out: share of the samples that F judges and y does not learn from, in [0, 1).
        balance: 0: all pixels of an image count alike, 1: all its classes.
        warmup: updates without guidance, 0 or more.

    Raises:
        ValueError: an argument out of range, a file that does not fit, a frozen network without weights, or
            one that learns and has batch norm.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"classes"})

    def __init__(
        self,
        fidelity: FusionLoss,
        network: nn.Module,
        weight: float = 1.0,
        frozen: bool = False,
        weights: str | None = None,
        held_out: float = 0.5,
        balance: float = 0.5,
        warmup: int = 100,
    ) -> None:
        super().__init__()
        require(_LOSS, 0, weight=weight, balance=balance, warmup=warmup)
        if not 0 <= held_out < 1 or balance > 1:
            raise ValueError(
                f"{_LOSS} loss: held_out is {held_out} and balance {balance}; expected a share of 0 or more, "
                "below 1, and a number from 0 to 1"
            )
        if frozen and weights is None:
            raise ValueError(
                f"{_LOSS} loss: frozen=true needs weights, the file of a trained network: without it the "
                "first, random weights would judge"
            )
        if not frozen and any("running_" in name for name, _ in network.named_buffers()):
            raise ValueError(
                f"{_LOSS} loss: {type(network).__name__} has batch norm, whose running statistics the lower "
                "level cannot learn; take group norm, or frozen=true"
            )
        self.fidelity, self.network = fidelity, network
        self.weight, self.frozen, self.weights = weight, frozen, weights
        self.held_out, self.balance, self.warmup = held_out, balance, warmup
        with named_errors(f"{_LOSS} loss"):
            self.classes = _classes_of(network)
            if weights is not None:
                load_weights(network, weights)
        network.requires_grad_(not frozen)
        self._names = tuple(name for name, _ in network.named_parameters())

    def check_labels(self, sample: LossInputs) -> None:
        """Refuse labels with more classes than the network has, beside data without any."""
        super().check_labels(sample)
        if wrong := self._wrong(sample):
            raise ValueError(wrong)

    def notices(self, steps: int) -> list[str]:
        """Name a warm-up that outlasts the training, and what is idle beside a frozen network."""
        found, alone = super().notices(steps), "the network is trained by the fidelity alone"
        if not self.weight:
            found.append(f"{self.place}.weight=0: {alone}")
        elif self.warmup >= steps:
            long = f"{self.place}.warmup={self.warmup} outlasts the {steps} updates of this run: {alone}"
            found.append(f"{long}; lower {self.place}.warmup or raise steps")
        return found + (
            self.unused("a frozen network learns from no sample", "held_out") if self.frozen else []
        )

    def lower_parameters(self) -> Sequence[Tensor]:
        """Return the weights of the task network; none if it is frozen."""
        return () if self.frozen else tuple(self.network.parameters())

    def prepare(self, inputs: LossInputs) -> _State:
        """Make the fused colour images, weigh their pixels and divide the samples.

        Raises:
            UserError: the batch has no maps of classes, or a class that the network does not have.
        """
        free = inputs.classes is None or sending.reads_freely(inputs.classes.device)
        if (free or not self.training) and (wrong := self._wrong(inputs)):
            raise UserError(wrong)
        assert inputs.classes is not None
        guided = inputs.step >= self.warmup or not self.training
        fused, chroma = inputs.fused, inputs.fused_chroma
        images = luma_chroma_to_rgb(*(each if guided else each.detach() for each in (fused, chroma)))
        classes = inputs.classes.masked_fill(inputs.classes == IGNORED, 0)
        # On a GPU a wrong class makes both losses NaN, upon which the training calls `check_labels`: to read
        # it here would make the host wait in the middle of each update.
        unknown = (classes >= self.classes).any()
        classes = classes.clamp(max=self.classes - 1)
        weights = self._pixel_weights(inputs.classes, classes).to(images.dtype)
        weights = weights.masked_fill(unknown, float("nan"))
        judged = learnt = list(range(len(classes)))
        if self.training and not self.frozen and self.held_out:
            draws = [derived_seed(inputs.seed, "held out", each) / 2**32 for each in inputs.sample_ids]
            judged = [index for index, draw in enumerate(draws) if draw < self.held_out]
            learnt = [index for index, draw in enumerate(draws) if draw >= self.held_out]
        return _State(self.fidelity(inputs), images, classes, weights, judged, learnt, guided)

    def upper_loss(self, state: _State, lower: Sequence[Tensor]) -> LossOutput:
        """Return F; `terms` has `task`, and in validation `iou`, the mean over images and their classes."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and state.guided):
            task, logits = self._task_loss(state, state.judged, lower)
        total = state.fidelity.total
        if state.guided:
            total = total + self.weight * task.to(total.dtype)
        terms = dict(state.fidelity.terms) | {"task": task.detach()}
        if not self.training and logits is not None:
            overlaps = _overlaps(logits.argmax(1), state.classes, state.weights > 0, self.classes)
            means = overlaps.nanmean(1)
            if bool(means.isfinite().any()):
                terms["iou"] = means.nanmean()
        return LossOutput(total, terms)

    def lower_loss(self, state: _State, lower: Sequence[Tensor]) -> LossOutput:
        """Return f; `terms` has it as `task`."""
        if self.frozen:
            raise ValueError(f"{_LOSS} loss: a frozen task network has no lower level")
        total, _ = self._task_loss(state, state.learnt, lower)
        return LossOutput(total, {"task": total.detach()})

    @torch.no_grad()
    def artifacts(self, inputs: LossInputs) -> LossArtifacts | None:
        """Return the fused image, its labels and the classes that were found, in colours of their own."""
        if inputs.classes is None:
            return None
        image = luma_chroma_to_rgb(inputs.fused[:1], inputs.fused_chroma[:1])
        found, classes = self._logits(image, self.lower_parameters()).argmax(1), inputs.classes[:1]
        known = classes != IGNORED
        rows = _overlaps(found, classes.masked_fill(~known, 0), known, self.classes)[0].tolist()
        names = getattr(self.network, "names", ()) or tuple(map(str, range(self.classes)))
        scores = [f"{name} {value:.2f}" for name, value in zip(names, rows, strict=True) if value == value]
        palette = _colors(self.classes).to(image)
        maps = {"labels": classes[0].where(known[0], torch.full_like(classes[0], -1)), "found": found[0]}
        drawn = [(name, palette[each].movedim(-1, 0)) for name, each in maps.items()]
        return LossArtifacts({"iou": ", ".join(scores)}, [("fused", image[0]), *drawn])

    def _wrong(self, inputs: LossInputs) -> str:
        """Return what the labels of a batch lack, or an empty text."""
        classes = inputs.classes
        if classes is None:
            return f"{_LOSS} loss: a batch has no maps of classes, from which the task network learns"
        fault = unknown_class(classes, inputs.sample_ids, self.classes, f"{self.place}.network.classes")
        return fault and f"{_LOSS} loss: {fault}"

    def _pixel_weights(self, given: Tensor, classes: Tensor) -> Tensor:
        """Return the weight of each pixel, (N, H, W), from maps with `IGNORED` and with 0 in its place."""
        known, rows = given != IGNORED, torch.arange(len(given), device=given.device)
        cells = classes + self.classes * rows[:, None, None]
        counts = torch.zeros(len(given) * self.classes, dtype=torch.int64, device=given.device)
        counts.scatter_add_(0, cells.flatten(), known.flatten().long())  # `bincount` makes the host wait
        counts = counts.view(-1, self.classes)
        by_class = counts.clamp_min(1).double().pow(-self.balance)
        weights = by_class.gather(1, classes.flatten(1)).view_as(classes) * known
        return weights / weights.sum((1, 2), keepdim=True).clamp_min(1e-12)

    def _task_loss(
        self, state: _State, rows: Sequence[int], lower: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Return the mean over those of the samples that have labels, of all ranks; and logits, if any."""
        logits = None
        if rows:
            chosen = sending.send(torch.tensor(rows), state.images.device)
            logits, weights = self._logits(state.images[chosen], lower), state.weights[chosen]
            right = logits.log_softmax(1).gather(1, state.classes[chosen].unsqueeze(1)).squeeze(1)
            values, number = -(weights * right).sum((1, 2)), (weights.sum((1, 2)) > 0).sum()
        else:  # no such sample in this batch; a gradient, which is 0, it has nevertheless
            values = 0 * torch.stack([value.sum() for value in (state.images, *lower)]).sum(0, keepdim=True)
            number = torch.zeros((), device=values.device)
        return mean_over_ranks(values, number, self.training), logits

    def _logits(self, images: Tensor, lower: Sequence[Tensor]) -> Tensor:
        values = dict(zip(self._names, lower, strict=True)) if lower else {}
        with evaluating(self.network):
            return _logits_in(functional_call(self.network, values, (images,)))


def _logits_in(output: Any) -> Tensor:
    found: Tensor = output["out"] if isinstance(output, Mapping) else output
    return found


def _classes_of(network: nn.Module) -> int:
    """Return the number of classes of a network, from the logits of a small image."""
    with torch.no_grad(), evaluating(network):
        logits = _logits_in(network(torch.zeros(1, 3, 32, 32)))
    if logits.shape[0] != 1 or logits.shape[2:] != (32, 32):
        raise ValueError(
            f"the task network {type(network).__name__} gives {tuple(logits.shape)} for an image "
            "(1, 3, 32, 32); expected logits (1, C, 32, 32)"
        )
    return logits.shape[1]


def _overlaps(found: Tensor, classes: Tensor, known: Tensor, count: int) -> Tensor:
    """Return intersection over union, (N, C); NaN for a class that is neither in an image nor found there."""
    is_found = nn.functional.one_hot(found, count).bool() & known.unsqueeze(-1)
    is_there = nn.functional.one_hot(classes, count).bool() & known.unsqueeze(-1)
    both, either = ((is_found & is_there).sum((1, 2)), (is_found | is_there).sum((1, 2)))
    return both.float() / either.float()  # 0 / 0 is NaN


def _colors(count: int) -> Tensor:
    """Return RGB of each class, black for the first, then hues; the last row, gray, is for no label."""
    colors = class_colors(LabelSet(tuple(map(str, range(count))), 0))
    return torch.tensor([*colors, (127.5, 127.5, 127.5)]) / 255
