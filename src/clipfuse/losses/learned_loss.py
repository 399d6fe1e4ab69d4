"""A loss that learns: a small network weighs the two sources, pixel by pixel."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from clipfuse.errors import UserError
from clipfuse.losses.base import BilevelLoss, LossArtifacts, require, require_terms
from clipfuse.ops import sending
from clipfuse.ops.checks import unknown_class
from clipfuse.ops.color import luma_chroma_to_rgb
from clipfuse.ops.filters import sobel_fields
from clipfuse.ops.modes import evaluating
from clipfuse.ops.ranks import mean_over_ranks
from clipfuse.types import IGNORED, LossInputs, LossOutput

_LOSS = "learned_loss"
Judge = Literal["reconstruction", "task"]


class LearnedLoss(BilevelLoss):
    """The fusion network under weights that a second network proposes; these learn from what it fuses.

    F = w_i (mean (w_I (F - I))^2 + mean (w_V (F - V))^2) + w_g (mean |S_x F - S_x| + mean |S_y F - S_y|)
    f = reconstruction: mean |I' - I| + mean |V' - V|, or task: the cross-entropy of a segmenter

    (w_I, w_V) = softmax of the loss network on both sources, (N, 2, H, W); S_x and S_y of the source whose
    Sobel field is the stronger one at the pixel. The fusion network descends F. The loss network learns, by
    `solver=unrolled`, to propose weights under which a step down F lowers f: of the reconstructions I', V'
    that a third network makes of the fused image alone, or of the classes that a segmenter finds in it.
    What judges learns beside, from the same f. Another solver gives the loss network no objective, or F
    itself.

    Source: TDFusion (Bai et al., CVPR 2025; HaowenBai/TDFusion at 7cdb02a) for F, its weights of 1 and the
    task as a judge; ReFusion (Bai et al., IJCV 2024) for reconstruction as a judge, which needs no labels
    and whose training code is not released: its distance is our own choice. Different from TDFusion: loss
    network and judge of a few convolutions with some 5,000 weights each in place of Restormer blocks and
    SegFormer; the judge learns from the images of the step ahead, by the optimiser of the loss network,
    where the release takes steps of its own; steps on crops as they come, while the release resizes whole
    images for the task and doubles each batch with the bands swapped; Adam, where the release divides the
    hypergradient by its largest element. Cross-entropy is a mean over images of their labelled pixels,
    where the release takes all pixels of a batch together.

    Args:
        judge: `reconstruction`, or `task`, which needs maps of classes.
        task: the segmenter of `judge=task`, (N, 3, H, W) -> logits (N, C, H, W), such as
            `clipfuse.ops.segmenter.Segmenter`, without batch norm; None beside `reconstruction`.
        intensity_weight: w_i, 0 or more.
        gradient_weight: w_g, 0 or more.
        width: channels of the loss network and of the reconstruction, 1 or more.
        seed: of their first weights; the weights of the sources begin at one half.

    Raises:
        ValueError: an argument out of range, or a task network that is missing or has batch norm.
    """

    solvers = frozenset({"unrolled"})

    def __init__(
        self,
        judge: Judge = "reconstruction",
        task: nn.Module | None = None,
        intensity_weight: float = 1.0,
        gradient_weight: float = 1.0,
        width: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.weights = {"intensity": intensity_weight, "gradient": gradient_weight}
        require_terms(_LOSS, self.weights)
        require(_LOSS, 1, width=width)
        if judge not in get_args(Judge):
            raise ValueError(
                f"{_LOSS} loss: judge is {judge!r}; expected one of {', '.join(get_args(Judge))}"
            )
        self.judged_by: Judge = judge
        if not intensity_weight:
            raise ValueError(f"{_LOSS} loss: intensity_weight is 0, and with it the weights of the sources")
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            self.proposal = _small_network(2, width)
            self.judge: nn.Module = _small_network(1, width)
        for value in self.proposal[-1].parameters():
            nn.init.zeros_(value)
        if judge == "task":
            if task is None:
                raise ValueError(f"{_LOSS} loss: judge=task needs a task network; set {self.place}.task")
            if any("running_" in name for name, _ in task.named_buffers()):
                raise ValueError(
                    f"{_LOSS} loss: {type(task).__name__} has batch norm, whose running statistics cannot be "
                    "learned at two levels; take group norm"
                )
            self.judge = task
        self._names = [name for name, _ in self.named_parameters()]

    def required(self) -> dict[str, str]:
        """Return the labels that the judge needs."""
        return super().required() | ({"classes": self.name} if self.judged_by == "task" else {})

    def check_labels(self, sample: LossInputs) -> None:
        """Refuse labels with more classes than the judge has, beside data without any."""
        super().check_labels(sample)
        if wrong := self._wrong(sample):
            raise ValueError(wrong)

    def lower_parameters(self) -> Sequence[Tensor]:
        """Return the weights of the loss network, and of what judges."""
        return tuple(self.parameters())

    def prepare(self, inputs: LossInputs) -> LossInputs:
        """Return the inputs; refuse classes that the judge does not have.

        Raises:
            UserError: `judge=task`, and a batch has no maps of classes.
        """
        if self.judged_by == "task" and self.training:
            if inputs.classes is None:
                raise UserError(
                    f"{_LOSS} loss: a batch has no maps of classes, by which the task network judges"
                )
            # On a GPU a wrong class makes f NaN, upon which the training calls `check_labels`: to read it
            # here would make the host wait in each update.
            if sending.reads_freely(inputs.classes.device) and (wrong := self._wrong(inputs)):
                raise UserError(wrong)
        return inputs

    def upper_loss(self, state: LossInputs, lower: Sequence[Tensor]) -> LossOutput:
        """Return F; `terms` has `weight_infrared`, the mean over pixels."""
        fused, infrared, visible = state.fused, state.infrared, state.visible
        weights = self._weights(state, lower)
        terms: dict[str, Tensor] = {}
        terms["intensity"] = sum_of_squares = (weights[:, :1] * (infrared - fused)).square().mean() + (
            weights[:, 1:] * (visible - fused)
        ).square().mean()
        total = self.weights["intensity"] * sum_of_squares
        if self.weights["gradient"]:
            fields = [sobel_fields(each) for each in (fused, infrared, visible)]
            stronger = torch.where(fields[1].abs() >= fields[2].abs(), fields[1], fields[2])
            terms["gradient"] = (
                2 * (fields[0] - stronger).abs().mean()
            )  # of two fields, the sum of whose means
            total = total + self.weights["gradient"] * terms["gradient"]
        terms["weight_infrared"] = weights[:, 0].mean()
        return LossOutput(total, {name: term.detach() for name, term in terms.items()})

    def lower_loss(self, state: LossInputs, lower: Sequence[Tensor]) -> LossOutput:
        """Return f; `terms` has it by the judge's name, nothing for a validation image without classes."""
        if self.judged_by == "task" and state.classes is None:  # which `prepare` refuses in training
            return LossOutput(state.fused.new_zeros(()), {})
        judged = self._judged(state, lower)
        if self.judged_by == "reconstruction":
            found = judged.sigmoid() - torch.cat([state.infrared, state.visible], 1)
            total = 2 * found.abs().mean()  # of two bands, the sum of whose means
        else:
            assert state.classes is not None
            known = state.classes != IGNORED
            unknown = (known & (state.classes >= judged.shape[1])).any()
            classes = state.classes.clamp(max=judged.shape[1] - 1).masked_fill(~known, IGNORED)
            wrong = nn.functional.cross_entropy(judged, classes, ignore_index=IGNORED, reduction="none")
            wrong = wrong.masked_fill(unknown, float("nan"))
            pixels = known.sum((1, 2))
            means = wrong.sum((1, 2)) / pixels.clamp(min=1)
            total = mean_over_ranks(means, (pixels > 0).sum(), self.training)
        return LossOutput(total, {self.judged_by: total.detach()})

    def _wrong(self, inputs: LossInputs) -> str:
        """Return which class of a batch the judge does not have, or an empty text."""
        if self.judged_by != "task" or inputs.classes is None:
            return ""
        count = getattr(self.judge, "classes", None)
        if not isinstance(count, int):
            return ""
        fault = unknown_class(inputs.classes, inputs.sample_ids, count, f"{self.place}.task.classes")
        return fault and f"{_LOSS} loss: {fault}"

    @torch.no_grad()
    def artifacts(self, inputs: LossInputs) -> LossArtifacts:
        """Return the weight of the infrared image at each pixel, and what the judge finds."""
        first = inputs.part(slice(0, 1))
        lower = self.lower_parameters()
        weight = self._weights(first, lower)[0, :1]
        images = [("fused", first.fused[0]), ("weight of infrared", weight)]
        if self.judged_by == "reconstruction":
            found = self._judged(first, lower)[0].sigmoid()
            images += [("infrared, reconstructed", found[:1]), ("visible, reconstructed", found[1:])]
        return LossArtifacts({"weight of infrared": f"{float(weight.mean()):.3f}"}, images)

    def _values(self, part: str, lower: Sequence[Tensor]) -> Mapping[str, Tensor]:
        values = zip(self._names, lower, strict=True)
        return {name.removeprefix(part): value for name, value in values if name.startswith(part)}

    def _weights(self, inputs: LossInputs, lower: Sequence[Tensor]) -> Tensor:
        """Return the weights of infrared and visible, (N, 2, H, W); they add up to 1."""
        bands = torch.cat([inputs.infrared, inputs.visible], 1)
        logits: Tensor = functional_call(self.proposal, dict(self._values("proposal.", lower)), (bands,))
        return logits.softmax(1)

    def _judged(self, inputs: LossInputs, lower: Sequence[Tensor]) -> Tensor:
        """Return the logits of the judge."""
        images = inputs.fused
        if self.judged_by == "task":
            images = luma_chroma_to_rgb(inputs.fused, inputs.fused_chroma)
        with evaluating(self.judge):
            found: Any = functional_call(self.judge, dict(self._values("judge.", lower)), (images,))
        logits: Tensor = found["out"] if isinstance(found, Mapping) else found
        return logits


def _small_network(channels: int, width: int) -> nn.Sequential:
    """Return a smooth network from planes to two planes of logits, which sees 15 x 15 pixels."""
    layers: list[nn.Module] = []
    for dilation in (1, 2, 3):
        layers += [nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation), nn.GELU()]
        channels = width
    return nn.Sequential(*layers, nn.Conv2d(width, 2, 3, padding=1))
