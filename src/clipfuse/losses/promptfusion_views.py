"""PromptFusion with a lower level whose solution moves with the network, and with prompts for each class."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipfuse.clip.encoder import FrozenClip
from clipfuse.clip.prompts import LearnablePrompts
from clipfuse.clip.similarity import cosine
from clipfuse.errors import UserError
from clipfuse.losses.base import FusionLoss, LossArtifacts, named_errors, require
from clipfuse.losses.promptfusion import PromptFusionLoss, PromptState
from clipfuse.ops.defects import bad_pictures
from clipfuse.ops.objects import components, draw_objects, object_windows
from clipfuse.ops.patches import cut_patches
from clipfuse.ops.ranks import mean_over_ranks
from clipfuse.ops.seeding import derived_seed
from clipfuse.types import IGNORED, Boxes, LossInputs, LossOutput

Source = Literal["classes", "boxes"]
SMALLEST = 25  # pixels of a part of a map of classes that counts as an object
_PHRASES = {"day": "by day", "night": "at night"}  # of further conditions, such as fog: in fog


@dataclass(frozen=True)
class _Objects:
    """Windows about objects, one of each image.

    Attributes:
        fused: embeddings (N, D) of the fused images' windows, with graph.
        rows: (N,) int64, the words of each; -1 where an image has no such object.
        ends: embeddings (2, M, D) of good and bad windows, without graph; None where there are none.
        end_rows: (M,) int64, the words of these.
    """

    fused: Tensor
    rows: Tensor
    ends: Tensor | None
    end_rows: Tensor | None


@dataclass(frozen=True)
class _ViewState(PromptState):
    """What both levels share in one update, with `objects`, None without them."""

    objects: _Objects | None = None


class PromptFusionViewsLoss(PromptFusionLoss):
    """PromptFusion whose prompts also learn from what the network paints now.

    F = fidelity + w_g (mean_ik -log p_ik(V) + w_o mean_i -log q_i(V))
    f = mean_jk (-log p_jk(P) - log(1 - p_jk(N_k))) / 2 + w_v mean_ik H(t, p_ik(V))
        + w_a mean_c |y_c - y0_c|^2 / |y0_c|^2

    p_k is the probability of the positive prompt of pair k, as in `PromptFusionLoss`, V a random view of the
    present fused image of sample i, P and N_k the good and the bad image of a sample j of an earlier batch.
    H(t, p) = -t log p - (1 - t) log(1 - p). y_c are the context vectors of prompt c, y0_c their first values.

    In the parent's lower level good and bad images can be separated whatever the network x paints, and the
    ranking, its one term with x, is flat once the margins are kept. Until then the prompts do answer, but
    there is no near solution that few steps could follow; here, with the defaults, five steps of the solver
    go all the way that a change of x asks (`experiments/frontier`). What is different is own design:

    - H holds the present fused images at probability t, half way between good and bad for t = 1/2, as a bad
      image for t = 0, which is the critic of an adversarial training. Its gradient in y, (p - t) d logit, is
      zero at one place alone, and it changes there with the logit by p (1 - p), the most for p = t = 1/2: if
      the network raises its own score, the prompts answer by a higher standard, which the value function
      puts into the gradient of the network.
    - The pull to y0 gives f a minimum that is near. Without it separable images push the prompts ever
      farther, and few steps are none of the way. Relative to |y0|, it is the same for each CLIP.
    - P and N are of other samples than V, those of the batch `pictures_every` updates before: prompts cannot
      separate scenes in place of their quality.

    **Objects.** With `objects` there are prompts for the classes of the data, "[context] car", one positive
    and one negative context that all classes share. q_i is the probability of the positive one for a window
    about an object of sample i, drawn by (seed, step, sample id) and cut from the fused image; f gets the
    same terms for windows of good and bad images, H for those of the fused ones. Means are over the objects
    that there are, on all ranks. `conditions` adds words by the sample's name, "car at night". To fuse, no
    labels are needed: the prompts are used in training alone.

    Source: PromptFusion (IEEE/CAA JAS 12(3), 2025) for task-specific prompts, by its abstract; its release
    has none. CoOp (IJCV 2022) for words of classes behind one shared context. The rest is own design.

    Args:
        clip: as for `PromptFusionLoss`, like `fidelity`, `pairs`, `positives`, `warmup`, `pictures_every`,
            `length`, `seed` and `guidance_weight`, w_g.
        fused_weight: w_v, 0 or more; 0 in the first stage.
        fused_target: t, from 0 to 1.
        anchor_weight: w_a, 0 or more.
        objects: names of classes that have prompts, such as ("person", "car"); none: no such prompts.
        class_names: names of the data's classes, in their order.
        conditions: expressions over sample ids by name, such as {"night": "N$"}; the first one found counts.
        boxes: what has the objects: `classes`, the connected parts of the map of classes, or `boxes`.
        object_positive: initial text of the positive context.
        object_negative: that of the negative one.
        object_weight: w_o, 0 or more.

    Raises:
        ValueError: as the parent; a class that `class_names` lacks, or an expression that cannot be read.
    """

    held_out = True

    def __init__(
        self,
        clip: FrozenClip,
        fidelity: FusionLoss,
        pairs: Mapping[str, Mapping[str, str | Sequence[str]]],
        guidance_weight: float = 1.0,
        fused_weight: float = 1.0,
        fused_target: float = 0.0,
        anchor_weight: float = 10.0,
        objects: Sequence[str] = (),
        class_names: Sequence[str] | None = None,
        conditions: Mapping[str, str] | None = None,
        boxes: Source = "classes",
        object_positive: str = "a clear and striking",
        object_negative: str = "a fuzzy and weak",
        object_weight: float = 1.0,
        positives: Literal["composite", "reference"] = "composite",
        warmup: int = 100,
        pictures_every: int = 10,
        length: int | None = None,
        seed: int = 0,
    ) -> None:
        own: dict[str, Any] = {"warmup": warmup, "pictures_every": pictures_every}
        own |= {"length": length, "seed": seed}
        super().__init__(
            clip, fidelity, pairs, guidance_weight, ranking_weight=0.0, positives=positives, **own
        )
        weights = {"anchor_weight": anchor_weight, "object_weight": object_weight}
        require(self.name, 0, fused_weight=fused_weight, **weights)
        if not 0 <= fused_target <= 1:
            raise ValueError(f"{self.name} loss: fused_target is {fused_target}; expected 0 to 1")
        if boxes not in get_args(Source):
            expected = " or ".join(get_args(Source))
            raise ValueError(f"{self.name} loss: boxes is {boxes!r}; expected {expected}")
        self.fused_weight, self.fused_target = fused_weight, fused_target
        self.anchor_weight, self.object_weight = anchor_weight, object_weight
        self.objects, self.boxes = tuple(objects), boxes
        self.class_names, self.conditions = tuple(class_names or ()), dict(conditions or {})
        self.object_prompts = nn.ModuleList()
        if not self.objects:
            return
        self._check_objects()
        phrases = ["", *(f" {_PHRASES.get(name, f'in {name}')}" for name in self.conditions)]
        words = [name.replace("_", " ") + phrase for name in self.objects for phrase in phrases]
        with named_errors(f"{self.name} loss"):
            for side, text in (("positive", object_positive), ("negative", object_negative)):
                rest: dict[str, Any] = {"length": length, "seed": derived_seed(seed, side), "shared": True}
                prompts = LearnablePrompts(clip, dict(zip(words, words, strict=True)), text, **rest)
                self.object_prompts.append(prompts)
        for index, context in enumerate(self.lower_parameters()):
            self.register_buffer(f"start{index}", context.detach().clone(), persistent=False)

    def _check_objects(self) -> None:
        names = ", ".join(self.class_names)
        if not names:
            raise ValueError(
                f"{self.name} loss: objects needs the names of the data's classes in their order; set "
                f"{self.place}.class_names, of rendered scenes [sky,road,pavement,ground,building,vegetation,"
                "pole,lamp,sign,person,car]"
            )
        if unknown := [name for name in self.objects if name not in self.class_names]:
            raise ValueError(f"{self.name} loss: objects has {unknown[0]}; the data's classes are {names}")
        for name, expression in self.conditions.items():
            try:
                re.compile(expression)
            except re.error as error:
                raise ValueError(f"{self.name} loss: conditions.{name} is {expression!r}: {error}") from error

    def required(self) -> dict[str, str]:
        """Return the labels that the objects need."""
        return super().required() | ({self.boxes: self.name} if self.objects else {})

    def setup(self, sample: LossInputs) -> None:
        """Refuse data with more classes than `class_names`, beside what the parent refuses."""
        super().setup(sample)
        if not self.objects:
            return
        maps = [sample.classes] if self.boxes == "classes" else [each.classes for each in sample.boxes or ()]
        known = torch.cat([each[each != IGNORED] for each in maps if each is not None])
        if len(known) and (most := int(known.max())) >= len(self.class_names):
            raise ValueError(
                f"{self.name} loss: the data has a class {most}, and {self.place}.class_names "
                f"{len(self.class_names)} names, 0 to {len(self.class_names) - 1}"
            )

    def notices(self, steps: int) -> list[str]:
        """Name what is idle without objects, or where the prompts do not see the network."""
        found = super().notices(steps)
        if not self.fused_weight:
            found += self.unused("fused_weight is 0", "fused_target")
        if not self.objects:
            found += self.unused("there are no objects", "boxes", "object_weight")
        return found

    def lower_parameters(self) -> Sequence[Tensor]:
        """Return the contexts of the pairs, then the positive and the negative one of the objects."""
        mine = (context for each in getattr(self, "object_prompts", ()) for context in each.contexts)
        return (*super().lower_parameters(), *mine)

    def prepare(self, inputs: LossInputs) -> _ViewState:
        """Embed views and windows of the fused image and, as the parent, good and bad images."""
        state = super().prepare(inputs)
        if not self.objects:
            return _ViewState(**vars(state))
        if getattr(inputs, self.boxes) is None:
            if self.training:
                raise UserError(f"{self.name} loss: a batch has no {self.boxes}, and objects needs them")
            return _ViewState(**vars(state))
        fused = inputs.fused if state.guided else inputs.fused.detach()
        windows, rows = self._windows(inputs, {"fused": fused})
        ends = end_rows = None
        parts = vars(state)
        if state.pictures is not None:
            count = 1 + len(self.pair_names)
            ends, end_rows = state.pictures[count : count + 2], state.pictures[count + 2, :, 0].round().long()
            parts = parts | {"pictures": state.pictures[:count]}
        objects = _Objects(self._see(windows["fused"]), rows.to(fused.device), ends, end_rows)
        return _ViewState(**parts, objects=objects)

    def upper_loss(self, state: PromptState, lower: Sequence[Tensor]) -> LossOutput:
        """Return F; `terms` as the parent, and of objects guidance and probability, 0 where none are."""
        output = super().upper_loss(state, lower)
        objects = getattr(state, "objects", None)
        if objects is None:
            return output
        logits, number = self._object_logits(objects.fused, objects.rows, lower)
        guidance = mean_over_ranks(F.softplus(-logits), number, self.training)
        total = output.total
        if state.guided:
            total = total + self.guidance_weight * self.object_weight * guidance.to(total.dtype)
        share = mean_over_ranks(torch.sigmoid(logits.detach()), number, self.training)
        terms = {"guidance_objects": guidance.detach(), "p_fused_objects": share.detach()}
        return LossOutput(total, dict(output.terms) | terms)

    def lower_loss(self, state: PromptState, lower: Sequence[Tensor]) -> LossOutput:
        """Return f; `terms` has its cross-entropy, the pull to the start, and in the second stage H."""
        if state.pictures is None:  # as in the parent
            return LossOutput(state.fused.new_zeros(()), {})
        texts, objects = self._texts(lower), getattr(state, "objects", None)
        good, bad = self._score_pairs(state.pictures, texts)
        entropy = (F.softplus(-good) + F.softplus(bad)).mean() / 2
        if objects is not None:
            mine, number = self._object_logits(objects.ends[0], objects.end_rows, lower)
            spoilt, _ = self._object_logits(objects.ends[1], objects.end_rows, lower)
            entropy = (
                entropy + mean_over_ranks(F.softplus(-mine) + F.softplus(spoilt), number, self.training) / 2
            )
        starts = [self.get_buffer(f"start{index}") for index in range(len(lower))]
        ratios = [
            (now - then).square().sum() / then.square().sum().clamp(min=1e-12)
            for now, then in zip(lower, starts, strict=True)
        ]
        anchor = torch.stack(ratios).mean()
        total = entropy + self.anchor_weight * anchor.to(entropy.dtype)
        terms = {"cross_entropy": entropy.detach(), "anchor": anchor.detach()}
        if state.guided and self.fused_weight:
            held = self._held(self._logits(state.fused.unsqueeze(1), texts)).mean()
            if objects is not None:
                mine, number = self._object_logits(objects.fused, objects.rows, lower)
                held = held + mean_over_ranks(self._held(mine), number, self.training)
            total = total + self.fused_weight * held
            terms["fused"] = held.detach()
        return LossOutput(total, terms)

    @torch.no_grad()
    def artifacts(self, inputs: LossInputs) -> LossArtifacts:
        """Return those of the parent, with the tokens nearest to the contexts of the objects."""
        found = super().artifacts(inputs)
        words = {
            f"objects {side}": " ".join(token[0][0] for token in each.nearest_tokens()["shared"])
            for side, each in zip(("positive", "negative"), self._object_prompts(), strict=False)
        }
        return LossArtifacts(dict(found.texts) | words, found.images)

    def _texts(self, lower: Sequence[Tensor]) -> Tensor:
        return super()._texts(lower[: 2 * len(self.pair_names)])

    def _object_prompts(self) -> Sequence[LearnablePrompts]:
        return cast("Sequence[LearnablePrompts]", self.object_prompts)

    def _held(self, logits: Tensor) -> Tensor:
        """Return H(t, sigmoid(logits))."""
        return self.fused_target * F.softplus(-logits) + (1 - self.fused_target) * F.softplus(logits)

    def _object_logits(self, images: Tensor, rows: Tensor, lower: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the log-odds of those images (N, D) that show an object, (M,), and M as a tensor."""
        first = 2 * len(self.pair_names)
        sides = [
            self._features(each, lower[first + index : first + index + 1])
            for index, each in enumerate(self._object_prompts())
        ]
        shown = rows >= 0
        positive, negative = (cosine(images[shown], side[rows[shown]]) for side in sides)
        return self.clip.logit_scale * (positive - negative), shown.sum()

    def _boxes(self, inputs: LossInputs, kinds: Sequence[int]) -> Sequence[Boxes]:
        if self.boxes == "boxes":
            assert inputs.boxes is not None
            return inputs.boxes
        assert inputs.classes is not None
        return [components(each, kinds, SMALLEST) for each in inputs.classes]

    def _windows(self, inputs: LossInputs, images: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return one window of each image, the same place in all of them, and the words of each sample."""
        kinds = [self.class_names.index(name) for name in self.objects]
        step = inputs.step if self.training else 0  # the same objects at each validation
        seeds = [derived_seed(inputs.seed, step, "object", each) for each in inputs.sample_ids]
        edges, places = draw_objects(self._boxes(inputs, kinds), kinds, seeds)
        height, width = inputs.fused.shape[-2:]
        windows = object_windows((height, width), edges)
        size = self.clip.preprocess.size
        phrase = torch.tensor([self._condition(each) for each in inputs.sample_ids])
        rows = torch.where(places < 0, -1, places * (1 + len(self.conditions)) + phrase)
        return {name: cut_patches(each, windows, size) for name, each in images.items()}, rows

    def _condition(self, sample_id: str) -> int:
        found = (
            place for place, each in enumerate(self.conditions.values(), 1) if re.search(each, sample_id)
        )
        return next(found, 0)

    def _see(self, windows: Tensor) -> Tensor:
        return self.clip.encode_image(windows, resize="squash")

    @torch.no_grad()
    def _embed_pictures(self, inputs: LossInputs) -> Tensor:
        """Return those of the parent; with objects also a good and a bad window, and the words of each."""
        found = super()._embed_pictures(inputs)
        if not self.objects or getattr(inputs, self.boxes) is None:
            return found
        bands = {"good": self._good(inputs), "infrared": inputs.infrared, "visible": inputs.visible}
        windows, rows = self._windows(inputs, bands)
        kinds = list(dict.fromkeys(kind for each in self.against.values() for kind in each))
        seeds = [derived_seed(inputs.seed, inputs.step, "bad object", each) for each in inputs.sample_ids]
        ends = windows["good"], bad_pictures(kinds, **windows, seeds=seeds)
        marks = rows.to(found).view(1, -1, 1).expand(1, -1, found.shape[-1])
        return torch.cat([found, torch.stack([self._see(each) for each in ends]), marks])
