"""PromptFusion's loss as a bi-level problem.

The prompts learn to separate good from bad images; the network is trained to raise their score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clipfuse.clip.encoder import FrozenClip
from clipfuse.clip.prompts import LearnablePrompts, read_pairs
from clipfuse.clip.similarity import cosine, margin_ranking
from clipfuse.losses.base import BilevelLoss, FusionLoss, LossArtifacts, named_errors, require
from clipfuse.ops.defects import MAKERS, bad_pictures
from clipfuse.ops.patches import random_views
from clipfuse.ops.pyramid import detail_maximum, fusions_by_rule
from clipfuse.ops.ranks import join_ranks, own_part
from clipfuse.ops.seeding import derived_seed
from clipfuse.types import LossInputs, LossOutput

_RANKING = ("margin", "margin_bad", "margin_ends", "margin_earlier")  # without effect where nothing is ranked


@dataclass(frozen=True)
class PromptState:
    """What both levels share in one update.

    Attributes:
        fidelity: fidelity loss of the fused image, with graph.
        fused: embeddings of the fused images, (N, D), with graph.
        pictures: embeddings (1 + K, N, D) of the good image of each sample, and of a bad one for each pair of
            prompts; None with fixed prompts.
        earlier: the same of an earlier network, without graph; None without that rank.
        plain: embeddings of sources and trivial fusions by name, for the log; empty in training.
        guided: whether the second stage has begun.
    """

    fidelity: LossOutput
    fused: Tensor
    pictures: Tensor | None
    earlier: Tensor | None
    plain: Mapping[str, Tensor]
    guided: bool


class PromptFusionLoss(BilevelLoss):
    """Upper level: the network under fidelity and prompts. Lower level: pairs of prompts.

    F = fidelity + w_g mean_ik -log p_ik(F)
    f = mean_ik [(-log p_ik(P) - log(1 - p_ik(N_k))) / 2 + w_r (max(0, p_ik(F) - p_ik(P) + m)
                                                             + max(0, p_ik(N_k) - p_ik(F) + m))]

    p_ik is the probability of the positive prompt of pair k for an image of sample i, P its good and N_k its
    bad image. The margin ranking puts the current fused image between the two, so that the lower-level loss f
    depends on the network; otherwise the value function has no gradient in x.

    CLIP-LIT's own form is a setting (`experiment=clip_lit`): guidance by 1 - p_ik(F); prompts that learn by
    the ranking alone in the second stage; a margin m_b for N_k; a term max(0, p_ik(N_k) - p_ik(P) + m_e); and
    the image E of an earlier network, an average of the weights, ranked between N_k and F with margin m_a
    below F. CLIP-LIT's code ranks the newer image below the older one, against its text.

    There are two stages, switched by the update alone. In the first (`warmup` updates) the network learns
    fidelity and the prompts learn to separate good from bad: F without guidance, f without ranking.

    Source: PromptFusion (IEEE/CAA JAS 12(3), 2025) for positive and negative prompts, their texts and a
    bi-level problem between prompts and fusion; CLIP-LIT (ICCV 2023) for the two stages and the ranking;
    CoOp (IJCV 2022) for prompts as context vectors. The formulation is our own design: neither the paper's
    abstract nor its release, which never optimises its prompts, defines images, losses, or which level is
    upper. Prompts are the lower level since its solution is then cheap (two text passes instead of a second
    network) and the value function needs many of them; `solver=unrolled` is the reverse nesting.

    Good images are made by rule from the batch (`detail_maximum`), bad ones drawn from the kinds that a pair
    names in `against` (`bad_pictures`), by (seed, step, sample id). They are embedded without graph and kept
    for `pictures_every` updates; a nested solver moves the prompts in the same updates. Each sample is ranked
    against its own images; in the updates between, against those at its place in the batch.

    In training CLIP gets a random view of each image (`random_views`). With whole images (`view=whole`) a
    network learns a fine regular pattern that raises CLIP's score and no metric.

    Args:
        clip: the CLIP that compares images and prompts; its text tower must accept token embeddings.
        fidelity: another loss.
        pairs: pairs of prompts by name, each with `positive` and `negative`, the initial texts, and
            `against`, kinds of `bad_pictures`.
        guidance_weight: w_g, 0 or more.
        ranking_weight: w_r, 0 or more.
        margin: m, in [0, 1).
        prompts: `learned`; or `fixed`, the texts as they are and no lower level.
        positives: good images: `composite`, made by rule, or `reference`, the data's ideal fused image.
        view: `random` or `whole`.
        warmup: updates of the first stage, 0 or more.
        pictures_every: updates for which good and bad images are used, 1 or more; the solver's `every`.
        length: context vectors per prompt; None: the tokens of its text.
        seed: seed of the context vectors beyond the text.
        guidance: `log`, -log p, or `probability`, 1 - p.
        refinement: what the prompts learn from in the second stage: `both`, or the `ranking` alone.
        margin_bad: m_b, in [0, 1); None: m.
        margin_ends: m_e, in [0, 1); None: no such term.
        margin_earlier: m_a, in [0, 1).
        earlier_decay: decay of the average that is the earlier network, in [0, 1); None: no such rank.

    Raises:
        ValueError: an argument out of range, a text that is too long, a text tower without embeddings.
    """

    held_out = False  # whether the prompts learn from images of an earlier batch than the one they answer to

    def __init__(
        self,
        clip: FrozenClip,
        fidelity: FusionLoss,
        pairs: Mapping[str, Mapping[str, str | Sequence[str]]],
        guidance_weight: float = 1.0,
        ranking_weight: float = 1.0,
        margin: float = 0.1,
        prompts: Literal["learned", "fixed"] = "learned",
        positives: Literal["composite", "reference"] = "composite",
        view: Literal["random", "whole"] = "random",
        warmup: int = 100,
        pictures_every: int = 10,
        length: int | None = None,
        seed: int = 0,
        guidance: Literal["log", "probability"] = "log",
        refinement: Literal["both", "ranking"] = "both",
        margin_bad: float | None = None,
        margin_ends: float | None = None,
        margin_earlier: float = 0.1,
        earlier_decay: float | None = None,
    ) -> None:
        shares = {"margin": margin, "margin_bad": margin_bad, "margin_ends": margin_ends}
        shares |= {"margin_earlier": margin_earlier, "earlier_decay": earlier_decay}
        super().__init__()
        require(self.name, 0, guidance_weight=guidance_weight, ranking_weight=ranking_weight, warmup=warmup)
        require(self.name, 1, pictures_every=pictures_every)
        for name, value in shares.items():
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{self.name} loss: {name} is {value}; expected 0 or more, below 1")
        if refinement == "ranking" and not ranking_weight:
            raise ValueError(f"{self.name} loss: refinement is ranking; expected a ranking_weight above 0")
        self.guidance, self.refinement, self.positives = guidance, refinement, positives
        self.margin_bad, self.margin_ends, self.margin_earlier = margin_bad, margin_ends, margin_earlier
        self.teacher_decay = earlier_decay if prompts == "learned" else None
        self.clip, self.fidelity = clip, fidelity
        self.guidance_weight, self.ranking_weight = guidance_weight, ranking_weight
        self.margin, self.view, self.warmup, self.pictures_every = margin, view, warmup, pictures_every
        self.prompts: LearnablePrompts | None = None
        with named_errors(f"{self.name} loss"):
            texts, self.against = read_pairs(pairs, tuple(MAKERS))
            self.pair_names, self.fixed_texts = tuple(self.against), list(texts.values())
            clip.encode_text(self.fixed_texts)
            if prompts == "learned":
                self.prompts = LearnablePrompts(clip, dict.fromkeys(texts, ""), texts, length, seed=seed)
        for index, context in enumerate(self.lower_parameters()):
            self.register_buffer(f"start{index}", context.detach().clone(), persistent=False)
        self._pictures: Tensor | None = None
        self._whole = -1, 0  # the last update, and the samples of its batch

    def setup(self, sample: LossInputs) -> None:
        """Refuse data without the reference that `positives` needs; set up the fidelity loss."""
        if self.positives == "reference" and sample.reference is None:
            raise ValueError(
                f"{self.name} loss: positives=reference needs data with an ideal fused image, such as "
                f"data=synthetic; take {self.place}.positives=composite"
            )
        super().setup(sample)

    def notices(self, steps: int) -> list[str]:
        """Name a first stage that outlasts the training, and what is idle beside fixed prompts."""
        found, alone = super().notices(steps), "the network is trained by the fidelity alone"
        if not self.guidance_weight:
            found.append(f"{self.place}.guidance_weight=0: {alone}")
        elif self.warmup >= steps:
            long = f"{self.place}.warmup={self.warmup} outlasts the {steps} updates of this run: {alone}"
            found.append(f"{long}, without prompts; lower {self.place}.warmup or raise steps")
        if self.prompts is None:
            return found + self.unused(
                "fixed prompts are not trained", *("ranking_weight", "positives", "refinement", *_RANKING)
            )
        if not self.ranking_weight:
            return found + self.unused("ranking_weight is 0", *_RANKING)
        idle = self.teacher_decay is None
        return found + (self.unused("earlier_decay is null", "margin_earlier") if idle else [])

    def lower_parameters(self) -> Sequence[Tensor]:
        """Return the contexts, positive and negative of each pair in turn; none if the prompts are fixed."""
        return () if self.prompts is None else tuple(self.prompts.contexts)

    def prepare(self, inputs: LossInputs) -> PromptState:
        """Embed the fused image and, every `pictures_every` updates, good and bad images."""
        pictures, guided = None, inputs.step >= self.warmup
        if self.training and self.prompts is not None:
            pictures = self._keep_pictures(inputs)
        elif self.prompts is not None and (self.positives == "composite" or inputs.reference is not None):
            pictures = self._embed_pictures(replace(inputs, step=0))  # the same at each validation
        fused = self._encode(inputs.fused if guided else inputs.fused.detach(), inputs, "fused")
        ranked = guided and pictures is not None and self.teacher_decay is not None
        earlier = self._embed_earlier(inputs) if ranked and (self.training or inputs.teacher) else None
        others = {} if self.training else fusions_by_rule(inputs.infrared, inputs.visible)
        plain = {name: self._encode(each, inputs, name) for name, each in others.items()}
        return PromptState(self.fidelity(inputs), fused, pictures, earlier, plain, guided)

    def upper_loss(self, state: PromptState, lower: Sequence[Tensor]) -> LossOutput:
        """Return F; `terms` has probabilities of images, and the distance of the prompts from their start.

        `p_fused_*` by pair; if prompts learn, `p_good`, `p_bad`, the share of fused images `between` them and
        their `margin`, the smaller distance to both; in validation p of sources and trivial fusions.
        """
        texts = self._texts(lower)
        logits = self._logits(state.fused.unsqueeze(1), texts)
        guidance = (F.softplus(-logits) if self.guidance == "log" else torch.sigmoid(-logits)).mean()
        total = state.fidelity.total
        if state.guided:
            total = total + self.guidance_weight * guidance.to(total.dtype)
        p = torch.sigmoid(logits.detach())
        terms = dict(state.fidelity.terms) | {"guidance": guidance.detach()}
        terms |= {f"p_fused_{name}": p[:, index].mean() for index, name in enumerate(self.pair_names)}
        with torch.no_grad():
            for name, images in state.plain.items():
                terms[f"p_{name}"] = torch.sigmoid(self._logits(images.unsqueeze(1), texts)).mean()
            if state.pictures is not None:
                good, bad = (torch.sigmoid(each) for each in self._score_pairs(state.pictures, texts))
                terms |= {"p_good": good.mean(), "p_bad": bad.mean()}
                margin = torch.minimum(good - p, p - bad)
                terms |= {"margin": margin.mean(), "between": (margin > 0).to(p.dtype).mean()}
                starts = (self.get_buffer(f"start{index}") for index in range(len(lower)))
                squares = [(now - then).square().mean() for now, then in zip(lower, starts, strict=True)]
                terms["prompt_drift"] = torch.stack(squares).mean().sqrt()
        return LossOutput(total, terms)

    def lower_loss(self, state: PromptState, lower: Sequence[Tensor]) -> LossOutput:
        """Return f; `terms` has its cross-entropy, learned or not, and in the second stage its ranking."""
        if self.prompts is None:
            raise ValueError(f"{self.name} loss: only learned prompts have a lower level")
        if state.pictures is None:  # a validation image without the reference that `positives` needs
            return LossOutput(state.fused.new_zeros(()), {})
        texts = self._texts(lower)
        good, bad = self._score_pairs(state.pictures, texts)
        total = (F.softplus(-good) + F.softplus(bad)).mean() / 2
        terms = {"cross_entropy": total.detach()}
        if state.guided and self.ranking_weight:
            p = torch.sigmoid(self._logits(state.fused.unsqueeze(1), texts))
            ranks = [torch.sigmoid(bad), p, torch.sigmoid(good)]
            margins = [self.margin if self.margin_bad is None else self.margin_bad, self.margin]
            if state.earlier is not None:
                ranks.insert(1, torch.sigmoid(self._logits(state.earlier.unsqueeze(1), texts)))
                margins.insert(1, self.margin_earlier)
            ranking = margin_ranking(ranks, margins, self.margin_ends).mean()
            total = self.ranking_weight * ranking + (total if self.refinement == "both" else 0)
            terms["ranking"] = ranking.detach()
        return LossOutput(total, terms)

    @torch.no_grad()
    def artifacts(self, inputs: LossInputs) -> LossArtifacts:
        """Return the tokens nearest to each prompt, and the images of one sample, best first.

        Captions have the mean probability over the pairs of prompts, `texts` that of each pair.
        """
        shown = {"fused": inputs.fused, **fusions_by_rule(inputs.infrared, inputs.visible)}
        if inputs.reference is not None:
            shown["reference"] = inputs.reference
        images = self.clip.encode_image(torch.cat([each[:1] for each in shown.values()]), resize="squash")
        p = torch.sigmoid(self._logits(images.unsqueeze(1), self._texts(self.lower_parameters())))
        scores = p.mean(dim=1).tolist()
        order = sorted(zip(shown, scores, strict=True), key=lambda each: -each[1])
        pictures = [(f"{name} {score:.2f}", shown[name][0]) for name, score in order]
        each = [[f"{pair} {value:.3f}" for pair, value in zip(self.against, row, strict=True)] for row in p]
        words = {f"p of {name}": ", ".join(parts) for name, parts in zip(shown, each, strict=True)}
        if self.prompts is not None:
            nearest = self.prompts.nearest_tokens()
            words |= {name: " ".join(found[0][0] for found in context) for name, context in nearest.items()}
        return LossArtifacts(words, pictures)

    def get_extra_state(self) -> Tensor:
        """Return the embeddings in use, so that a resumed training is equal bit for bit."""
        return torch.empty(0) if self._pictures is None else self._pictures

    def set_extra_state(self, state: Tensor) -> None:
        """Restore what `get_extra_state` returned."""
        self._pictures = state if len(state) else None

    def _texts(self, lower: Sequence[Tensor]) -> Tensor:
        """Return embeddings (2 K, D), positive and negative in turn; those of unchanged values are kept."""
        if self.prompts is None:
            return self.clip.encode_text(self.fixed_texts)
        return self._features(self.prompts, lower)

    def _features(self, prompts: LearnablePrompts, lower: Sequence[Tensor]) -> Tensor:
        if not self.training or (torch.is_grad_enabled() and any(value.requires_grad for value in lower)):
            return prompts.shared_features(lower)
        return prompts.kept_features(lower)

    def _logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return (N, K) log-odds of the positive prompts for (N, 1, D) images, or one per pair, (N, K, D)."""
        return self.clip.logit_scale * (cosine(images, texts[0::2]) - cosine(images, texts[1::2]))

    def _score_pairs(self, pictures: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (N, K) of the good image, and of the bad one of each pair."""
        good, bad = pictures[0].unsqueeze(1), pictures[1:].transpose(0, 1)
        return self._logits(good, texts), self._logits(bad, texts)

    def _good(self, inputs: LossInputs) -> Tensor:
        if self.positives == "composite":
            return detail_maximum(inputs.infrared, inputs.visible)
        if inputs.reference is None:
            raise ValueError(f"{self.name} loss: positives=reference, and a batch has no ideal fused image")
        return inputs.reference

    def _keep_pictures(self, inputs: LossInputs) -> Tensor:
        """Return the good and bad images of this update; every so often keep new ones.

        Where a solver looks ahead with some of the batch, after it, they are some of the batch's.
        """
        kept, count = None if self._pictures is None else own_part(self._pictures, dim=1), len(inputs.fused)
        step, whole = self._whole
        if kept is not None and step == inputs.step and count < whole:
            return kept[:, :count].to(inputs.fused.device)
        self._whole = inputs.step, count
        kept = kept if kept is not None and kept.shape[1] == count else None
        if kept is None or inputs.step % self.pictures_every == 0:
            fresh = self._embed_pictures(inputs)
            self._pictures = join_ranks(fresh, dim=1)  # of all ranks: one of them writes the checkpoint
            kept = kept if kept is not None and self.held_out else fresh
        return kept.to(inputs.fused.device)

    @torch.no_grad()
    def _embed_pictures(self, inputs: LossInputs) -> Tensor:
        pictures = {"good": (good := self._good(inputs))}
        for name, kinds in self.against.items():
            seeds = [derived_seed(inputs.seed, inputs.step, "bad", name, each) for each in inputs.sample_ids]
            pictures[name] = bad_pictures(kinds, good, inputs.infrared, inputs.visible, seeds)
        return torch.stack([self._encode(each, inputs, name) for name, each in pictures.items()])

    @torch.no_grad()
    def _embed_earlier(self, inputs: LossInputs) -> Tensor:
        if inputs.teacher is None:
            raise ValueError(f"{self.name} loss: earlier_decay needs inputs.teacher, which a training gives")
        return self._encode(inputs.teacher(inputs.infrared, inputs.visible).fused, inputs, "earlier")

    def _encode(self, images: Tensor, inputs: LossInputs, name: str) -> Tensor:
        """Embed (N, 1, H, W) images; in training each through its own random view."""
        if self.view == "whole" or not self.training:
            return self.clip.encode_image(images, resize="squash")
        seeds = [derived_seed(inputs.seed, inputs.step, "view", name, each) for each in inputs.sample_ids]
        return self.clip.encode_image(random_views(images, seeds, self.clip.preprocess.size))
