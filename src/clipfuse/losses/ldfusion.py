"""LDFusion's language-driven loss: CLIP's change from source to fused image should follow that of texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from clipfuse.clip.encoder import FrozenClip
from clipfuse.clip.patches import (
    check_sides,
    check_sizes,
    patch_losses,
    patch_mean,
    patch_seeds,
    seen_patches,
)
from clipfuse.clip.perceptual import MaximumFeatures
from clipfuse.clip.similarity import cosine, direction_loss
from clipfuse.losses.base import FusionLoss, named_errors, require, require_terms
from clipfuse.ops.entropy import entropy
from clipfuse.ops.patches import PatchPlaces, affine_places, perspective_places
from clipfuse.types import LossInputs, LossOutput

Texts = str | Sequence[str]
_NAME = "ldfusion loss"
_OF_TERM = {  # arguments without effect where the weight of a term is 0
    "patch": (
        *("patches", "patch_side", "patch_filter", "entropy_bits", "loss_threshold"),
        *("patch_mean", "patch_source"),
    ),
    "similarity": ("visible_share",),
    "perceptual": ("perceptual", "perceptual_layers", "layer_weights", "vgg_weights"),
}


@dataclass(frozen=True)
class _Release:
    text: Texts
    visible_text: Texts
    infrared_text: Texts
    global_weight: float
    patch_weight: float
    similarity_weight: float
    perceptual_weight: float
    visible_share: float
    layer_weights: Sequence[float]
    patches: int
    patch_side: tuple[float, float]
    patch_filter: Literal["entropy", "loss", "none"]


_2025 = _Release(
    text="a clear image with detailed background and salient objects",
    visible_text="a visible gray image",
    infrared_text="an infrared image",
    global_weight=2.0,
    patch_weight=10.0,
    similarity_weight=6.0,
    perceptual_weight=10.0,
    visible_share=0.5,
    layer_weights=(1.0, 1.0, 1.0),
    patches=32,
    patch_side=(0.5, 0.8),
    patch_filter="entropy",
)
_2024 = replace(
    _2025,
    text="a vivid image with clear background and obvious objects",
    visible_text="a visible light gray image",
    perceptual_weight=12.0,
    visible_share=0.35,
    layer_weights=(0.1, 0.4, 0.5),
    patches=40,
    patch_side=(0.25, 0.5),
    patch_filter="loss",
)
RELEASES: Mapping[int, _Release] = {2025: _2025, 2024: _2024}


class LDFusionLoss(FusionLoss):
    """Language direction of the whole image and of patches, similarity to both sources, maximum features.

    total = w_g mean L(F) + w_p mean_patches k L(patch of F) + w_s mean S(F) + w_f sum_l v_l MSE(f_l(F), m_l)

    L is half the direction loss from the visible image plus half that from the infrared image (1 - cosine
    between the change of embeddings from source to fused image and the change from the source's text to the
    fused text); S is one minus the weighted cosines to both sources, f_l a feature map of a frozen network
    and m_l the elementwise maximum of the sources' f_l. k is 1 if the patch counts, else 0.

    Source: Wang et al., "Infrared and Visible Image Fusion with Language-driven Loss in CLIP Embedding
    Space", arXiv 2402.16267, and its releases of November 2025 and of 2024. An argument that is None has the
    value of the release. Departures: CLIP is never trained, a fused image that equals a source gives finite
    values, and patches are drawn per image and wholly inside it.

    Patches are the same for fused image and sources, drawn by (seed, step, sample id). With
    `patch_filter=entropy` the sources alone decide which patches count, and CLIP gets no others.

    Args:
        clip: the CLIP that embeds images and texts.
        variant: the release whose values are the defaults.
        text: description of the fused image; embeddings of a list are averaged.
        visible_text: description of the visible image, or a list.
        infrared_text: description of the infrared image, or a list.
        global_weight: w_g, 0 or more; a term of weight 0 is not computed, here and below.
        patch_weight: w_p, 0 or more.
        similarity_weight: w_s, 0 or more.
        perceptual_weight: w_f, 0 or more.
        visible_share: share of the visible image in S, in [0, 1].
        patches: patches per image, 1 or more; None is the release's number, or 8 with the micro CLIP.
        patch_side: sides of patches as shares of the image's shorter side: least and greatest (2025), small
            and large (2024).
        patch_filter: `entropy`: a patch counts if both sources have more than `entropy_bits` in it; `loss`:
            if its L is at least `loss_threshold`; `none`: always.
        entropy_bits: entropy of the 8-bit histogram in bits, from 0 to 8.
        loss_threshold: in [0, 2].
        patch_mean: mean over `all` patches, as released, or over the `kept` ones of all ranks together.
        patch_source: source embedding of a patch: the `whole` source image, as released, or the same `patch`
            of it.
        clip_batch: patches per pass of CLIP, 1 or more; changes memory, not the result.
        perceptual: network of f_l: `vgg19` or `vgg16` (after the activation), `clip`, or `auto`, which is
            clip for the micro CLIP and vgg19, as released, for others.
        perceptual_layers: layers of `MaximumFeatures`.
        layer_weights: v_l, one per layer.
        vgg_weights: file of the VGG's weights, as in `MaximumFeatures`.

    Raises:
        ValueError: an argument out of range, an empty or over-long text, a CLIP without the layers, or
            weights of VGG19 that cannot be loaded.
    """

    def __init__(
        self,
        clip: FrozenClip,
        variant: Literal[2024, 2025] = 2025,
        text: Texts | None = None,
        visible_text: Texts | None = None,
        infrared_text: Texts | None = None,
        global_weight: float | None = None,
        patch_weight: float | None = None,
        similarity_weight: float | None = None,
        perceptual_weight: float | None = None,
        visible_share: float | None = None,
        patches: int | None = None,
        patch_side: tuple[float, float] | None = None,
        patch_filter: Literal["entropy", "loss", "none"] | None = None,
        entropy_bits: float = 6.0,
        loss_threshold: float = 0.7,
        patch_mean: Literal["all", "kept"] = "all",
        patch_source: Literal["whole", "patch"] = "whole",
        clip_batch: int = 32,
        perceptual: Literal["auto", "clip", "vgg16", "vgg19"] = "auto",
        perceptual_layers: Sequence[str] | None = None,
        layer_weights: Sequence[float] | None = None,
        vgg_weights: str | None = None,
    ) -> None:
        arguments = dict(locals())
        self.given = {name: arguments[name] for names in _OF_TERM.values() for name in names}
        super().__init__()
        if variant not in RELEASES:
            raise ValueError(f"{_NAME}: variant is {variant}; expected 2024 or 2025")
        micro = clip.identity["model"] == "micro"
        if micro and patches is None:
            arguments["patches"] = 8
        given = {name: arguments[name] for name in vars(RELEASES[variant]) if arguments[name] is not None}
        self.release = replace(RELEASES[variant], **given)
        self.clip = clip
        terms = ("global", "patch", "similarity", "perceptual")
        self.weights: dict[str, float] = {term: getattr(self.release, f"{term}_weight") for term in terms}
        self.draw = affine_places if variant == 2025 else perspective_places
        self.entropy_bits = entropy_bits
        self.loss_threshold = loss_threshold
        self.patch_mean = patch_mean
        self.patch_source = patch_source
        self.clip_batch = clip_batch
        self._check_numbers()
        self._texts()
        self.features: MaximumFeatures | None = None
        if self.weights["perceptual"]:
            network = ("clip" if micro else "vgg19") if perceptual == "auto" else perceptual
            with named_errors(_NAME):
                self.features = MaximumFeatures(
                    clip, network, perceptual_layers, self.release.layer_weights, vgg_weights
                )

    def setup(self, sample: LossInputs) -> None:
        """Refuse images too small for patches or for the layers of vgg19."""
        height, width = sample.fused.shape[-2:]
        if self.weights["patch"]:
            with named_errors(_NAME):
                check_sizes((height, width), self.release.patch_side[0], self.place)
        if self.features is not None and self.features.vgg is not None and min(height, width) < 8:
            raise ValueError(
                f"{_NAME}: {self.features.vgg.network} needs crops of 8 px or more, got {height}x{width}"
            )

    def notices(self, steps: int) -> list[str]:
        """Name what was set for terms of weight 0, and for rules of patches that are not in use."""
        idle = {f"{term}_weight is 0": names for term, names in _OF_TERM.items() if not self.weights[term]}
        if self.weights["patch"]:
            rules = {"entropy": "entropy_bits", "loss": "loss_threshold"}
            used = self.release.patch_filter
            idle |= {f"patch_filter is {used}": (name,) for rule, name in rules.items() if rule != used}
        unused = [
            self.unused(why, **{name: self.given[name] for name in names}) for why, names in idle.items()
        ]
        return [*super().notices(steps), *(notice for each in unused for notice in each)]

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Return the weighted sum; `terms` has terms of weight above 0, and `kept`, the share of patches."""
        weights = self.weights
        layers = () if self.features is None else self.features.of_clip
        both = torch.cat([inputs.visible, inputs.infrared])
        with torch.no_grad():  # first, which moves CLIP to their device
            sources, source_features = self.clip.encode_with_features(both, layers, "squash")
        texts = self._texts()
        visible, infrared = sources.chunk(2)
        terms: dict[str, Tensor] = {}
        features: dict[str, Tensor] = {}
        if weights["global"] or weights["similarity"] or layers:
            fused, features = self.clip.encode_with_features(inputs.fused, layers, "squash")
            if weights["global"]:
                terms["global"] = language_loss(fused, visible, infrared, *texts).mean()
            if weights["similarity"]:
                share = self.release.visible_share
                terms["similarity"] = similarity_loss(fused, visible, infrared, share).mean()
        if weights["patch"]:
            terms["patch"], kept = self._patch_term(inputs, visible, infrared, texts)
        if self.features is not None:
            terms["perceptual"] = self.features(features, source_features, inputs.fused, both)
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        log = {name: term.detach() for name, term in terms.items()}
        return LossOutput(total.to(inputs.fused.dtype), log | ({"kept": kept} if weights["patch"] else {}))

    def _patch_term(
        self, inputs: LossInputs, visible: Tensor, infrared: Tensor, texts: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the mean of L over patches, and the share of patches that count."""
        patches = seen_patches(inputs, self._places(inputs), self.clip.preprocess.size)
        total, counts = len(patches.fused), None
        if self.release.patch_filter == "entropy":
            bits = entropy(patches.sources.flatten(0, 1)).view(-1, 2)
            patches, counts = patches.that_count((bits > self.entropy_bits).all(dim=1))

        def language_losses(fused: Tensor, visible: Tensor, infrared: Tensor, part: slice) -> Tensor:
            return language_loss(fused, visible, infrared, *texts)

        sources = visible, infrared
        losses = patch_losses(
            self.clip, patches, sources, language_losses, self.patch_source, self.clip_batch
        )
        if self.release.patch_filter == "loss":
            counts = losses.detach() >= self.loss_threshold
        if counts is None:
            number = losses.new_full((), len(losses))
        else:
            losses, number = torch.where(counts, losses, 0.0), counts.sum()
        return patch_mean(losses, number, total, self.patch_mean, self.training), number / total

    def _places(self, inputs: LossInputs) -> PatchPlaces:
        shape = inputs.fused.shape[-2], inputs.fused.shape[-1]
        return self.draw(shape, patch_seeds(inputs), self.release.patches, self.release.patch_side)

    def _texts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean embedding (D,) of each text; CLIP computes each text once."""
        means = []
        for name in ("text", "visible_text", "infrared_text"):
            texts: Texts = getattr(self.release, name)
            texts = [texts] if isinstance(texts, str) else list(texts)
            if not texts or not all(isinstance(each, str) and each.strip() for each in texts):
                raise ValueError(f"{_NAME}: {name} is {texts!r}; expected words, or a list of texts")
            with named_errors(_NAME, name):
                means.append(self.clip.encode_text(texts).mean(dim=0))
        return means[0], means[1], means[2]

    def _check_numbers(self) -> None:
        release = self.release
        require_terms("ldfusion", self.weights)
        require("ldfusion", 1, patches=release.patches, clip_batch=self.clip_batch)
        with named_errors(_NAME):
            check_sides(release.patch_side)
        if not 0 <= release.visible_share <= 1:
            raise ValueError(f"{_NAME}: visible_share is {release.visible_share}; expected 0 to 1")


def language_loss(
    fused: Tensor,
    visible: Tensor,
    infrared: Tensor,
    text: Tensor,
    visible_text: Tensor,
    infrared_text: Tensor,
) -> Tensor:
    """Return the mean of the direction losses from both sources, (N,) in [0, 2].

    Args:
        fused: embeddings (N, D); no embedding needs to be normalised.
        visible: embeddings of the visible images, (N, D).
        infrared: embeddings of the infrared images, (N, D).
        text: embedding of the fused image's text, (D,) or (N, D).
        visible_text: embedding of the visible image's text, (D,) or (N, D).
        infrared_text: embedding of the infrared image's text, (D,) or (N, D).
    """
    from_visible = direction_loss(fused, visible, text, visible_text)
    return (from_visible + direction_loss(fused, infrared, text, infrared_text)) / 2


def similarity_loss(fused: Tensor, visible: Tensor, infrared: Tensor, visible_share: float = 0.5) -> Tensor:
    """Return one minus the cosines to both sources, weighted, (N,) in [0, 2]; embeddings are (N, D)."""
    share = visible_share * cosine(fused, visible) + (1 - visible_share) * cosine(fused, infrared)
    return 1 - share
