"""AutoFuse's loss: CLIP's change from source to fused image follows good texts, and flees from bad ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from clipfuse.clip.descriptions import (
    Description,
    descriptions_of,
    embed_measured,
    measured_descriptions,
    read_descriptions,
)
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
from clipfuse.clip.similarity import direction_loss
from clipfuse.losses.base import FusionLoss, named_errors, require, require_terms
from clipfuse.ops import sending
from clipfuse.ops.entropy import entropy
from clipfuse.ops.patches import PatchPlaces, affine_places, random_views
from clipfuse.ops.seeding import derived_seed
from clipfuse.types import LossInputs, LossOutput

_NAME = "autofuse loss"
GENERAL = {  # P and Q as released, and in words that the micro CLIP has seen
    False: (
        "high resolution, salient objects, rich details",
        "low resolution, indistinct objects, minimal details",
    ),
    True: ("high quality, salient objects, rich texture", "poor quality, hidden objects, weak texture"),
}
_OF_TERM = {  # arguments without effect where the weight of a term is 0
    "patch": ("patches", "patch_side", "entropy_bits", "patch_mean", "patch_source"),
    "perceptual": ("perceptual", "perceptual_layers", "layer_weights", "vgg_weights"),
}
_TEXTS = ("text", "antonym", "visible_text", "infrared_text", "degradations")


@dataclass(frozen=True)
class Texts:
    """Embeddings of the texts of N images.

    Attributes:
        positive: P and E, (N, D) each.
        negative: Q and D, (N, D) each.
        visible: the text of the visible band, (D,).
        infrared: that of the infrared band, (D,).
    """

    positive: tuple[Tensor, Tensor]
    negative: tuple[Tensor, Tensor]
    visible: Tensor
    infrared: Tensor

    def of(self, rows: Tensor) -> "Texts":
        """Return the texts of images by their indices."""
        positive, negative = ((one[rows], other[rows]) for one, other in (self.positive, self.negative))
        return replace(self, positive=positive, negative=negative)


def direction_losses(
    fused: Tensor, visible: Tensor, infrared: Tensor, texts: Texts, gates: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the sums over positive and over negative texts, (N,) each in [0, 2 (e^2 - 1)].

    Args:
        fused: embeddings (N, D); no embedding needs to be normalised.
        visible: embeddings of the visible images, (N, D).
        infrared: embeddings of the infrared images, (N, D).
        texts: of the N images.
        gates: whether the visible and the infrared band count, (N, 2) bool; None: both do.
    """
    counts = fused.new_ones(len(fused), 2) if gates is None else gates.to(fused.dtype)

    def shaped(text: Tensor, away: bool) -> Tensor:
        bands = (visible, texts.visible), (infrared, texts.infrared)
        losses = torch.stack([direction_loss(fused, source, text, start) for source, start in bands], dim=1)
        losses = 2 - losses if away else losses  # 1 + cosine, 1 - cosine
        return torch.expm1((losses * counts).sum(dim=1) / 2)

    first, second = texts.positive
    general, own = texts.negative
    return shaped(first, False) + shaped(second, False), shaped(general, True) + shaped(own, True)


class AutoFuseLoss(FusionLoss):
    """Directions towards positive and away from negative texts, general and of each image; maximum features.

    total = w_g (L(P) + L(E) + A(Q) + A(D)) + w_p (the same of patches) + w_f sum_l v_l MSE(f_l(F), m_l)
    L(T) = mean exp(sum_b s_b (1 - c_b(T)) / 2) - 1,   A(T) = mean exp(sum_b s_b (1 + c_b(T)) / 2) - 1

    c_b(T) is the cosine between the change of embeddings from band b (visible, infrared) to the fused image
    and the change from the text of that band to T. P (`text`) and Q (`antonym`) are the same for all images;
    D names what is wrong with a pair of sources, E the contrary; without either they are Q and P. The gate
    s_b is 1 for whole images; for a patch it is 1 if the entropy of band b in it is above `entropy_bits`,
    else 0. m_l is the elementwise maximum of the sources' features f_l.

    Source: AutoFuse, the successor of LDFusion by Wang et al., release b54c504 (src_fusion/trainer.py). There
    a vision-language model names D, and a language model the contrary of each word. Here they are measured
    (`clipfuse.ops.degradations`), or read from a table. Departures: CLIP is never trained (the release
    gathers gradients in it); a fused image that equals a source gives finite values, not 0/0; patches are
    drawn per image, wholly inside it, and sheared in one direction; a patch can be compared with the same
    patch of the sources (`patch_source=patch`) in place of the whole ones. The release's network also doubles
    the resolution, which no loss can do.

    Patches are the same for fused image and sources, drawn by (seed, step, sample id). CLIP gets none whose
    gates are both 0.

    Args:
        clip: the CLIP that embeds images and texts.
        text: P, what a fused image should be; None: "high resolution, salient objects, rich details", as
            released, and for the micro CLIP, which has never seen some of these words, "high quality, salient
            objects, rich texture".
        antonym: Q, its contrary; None: "low resolution, indistinct objects, minimal details", or "poor
            quality, hidden objects, weak texture".
        visible_text: description of the visible image.
        infrared_text: description of the infrared image.
        degradations: D and E of each image: `measured` from the sources as the loss gets them; `none`: Q and
            P; or a CSV file with the columns name, positive (E) and negative (D). In training each image
            needs a line, in which both texts may be empty; a validation image without a line has Q and P.
        global_weight: w_g, 0 or more; a term of weight 0 is not computed, here and below.
        patch_weight: w_p, 0 or more.
        perceptual_weight: w_f, 0 or more.
        patches: patches per image, 1 or more; None is the release's 32, or 8 with the micro CLIP.
        patch_side: least and greatest side of patches, as shares of the image's shorter side; the release's
            are 48 and 80 of 336 px.
        entropy_bits: entropy of the 8-bit histogram in bits, from 0 to 8.
        patch_mean: mean over `all` patches, as released, or over the `kept` ones of all ranks together, those
            in which a band counts.
        patch_source: source embedding of a patch: the `whole` source image, as released, or the same `patch`
            of it.
        clip_batch: patches per pass of CLIP, 1 or more; changes memory, not the result.
        perceptual: network of f_l: `vgg19` or `vgg16` (after the activation), `clip`, or `auto`, which is
            clip for the micro CLIP and vgg19, as released, for others.
        perceptual_layers: two layers of `MaximumFeatures`; None: conv3_1 and conv4_2 of vgg19.
        layer_weights: v_l, one per layer.
        vgg_weights: file of the VGG's weights, as in `MaximumFeatures`.
        view: what CLIP sees of whole images in training: the `whole`, as released, or a `random` view
            (`random_views`), the same of fused image and sources, as a network may learn a dark border.

    Raises:
        ValueError: an argument out of range, an empty or over-long text, a CLIP without the layers, or
            weights of the VGG that cannot be loaded.
        UserError: the table of texts cannot be read.
    """

    def __init__(
        self,
        clip: FrozenClip,
        text: str | None = None,
        antonym: str | None = None,
        visible_text: str = "a visible gray image",
        infrared_text: str = "an infrared image",
        degradations: str = "measured",
        global_weight: float = 2.0,
        patch_weight: float = 20.0,
        perceptual_weight: float = 17.0,
        patches: int | None = None,
        patch_side: tuple[float, float] = (0.143, 0.238),
        entropy_bits: float = 5.9,
        patch_mean: Literal["all", "kept"] = "all",
        patch_source: Literal["whole", "patch"] = "whole",
        clip_batch: int = 32,
        perceptual: Literal["auto", "clip", "vgg16", "vgg19"] = "auto",
        perceptual_layers: Sequence[str] | None = None,
        layer_weights: Sequence[float] = (0.5, 0.5),
        vgg_weights: str | None = None,
        view: Literal["whole", "random"] = "whole",
    ) -> None:
        arguments = dict(locals())
        self.given = {name: arguments[name] for name in (*sum(_OF_TERM.values(), ()), *_TEXTS)}
        super().__init__()
        micro = clip.identity["model"] == "micro"
        self.clip = clip
        self.weights = {"global": global_weight, "patch": patch_weight, "perceptual": perceptual_weight}
        self.patches = patches if patches is not None else 8 if micro else 32
        low, high = patch_side
        self.patch_side = low, high
        self.entropy_bits = entropy_bits
        self.patch_mean = patch_mean
        self.patch_source = patch_source
        self.clip_batch, self.view = clip_batch, view
        self.degradations = degradations
        require_terms("autofuse", self.weights)
        require("autofuse", 1, patches=self.patches, clip_batch=clip_batch)
        with named_errors(_NAME):
            check_sides(self.patch_side)
        self.texts = {
            "text": GENERAL[micro][0] if text is None else text,
            "antonym": GENERAL[micro][1] if antonym is None else antonym,
            "visible_text": visible_text,
            "infrared_text": infrared_text,
        }
        for name, words in self.texts.items():
            if not isinstance(words, str) or not words.strip():
                raise ValueError(f"{_NAME}: {name} is {words!r}; expected words")
            with named_errors(_NAME, name):
                clip.encode_text([words])
        self.known = self._read_table()
        self.features: MaximumFeatures | None = None
        if perceptual_weight:
            network = ("clip" if micro else "vgg19") if perceptual == "auto" else perceptual
            with named_errors(_NAME):
                self.features = MaximumFeatures(
                    clip, network, perceptual_layers, layer_weights, vgg_weights, count=2
                )

    def _read_table(self) -> dict[str, Description] | None:
        """Return the texts by image, or None where there is no table; each is short enough for CLIP."""
        if self.degradations in ("measured", "none"):
            return None
        known = read_descriptions(self.degradations)
        texts = {words for each in known.values() for words in (each.positive, each.negative) if words}
        with named_errors(_NAME, self.degradations):
            if texts:
                self.clip.tokens.ids(sorted(texts))
        return known

    def setup(self, sample: LossInputs) -> None:
        """Refuse an image without a line in the table, and images too small for patches or for vgg19."""
        super().setup(sample)
        height, width = sample.fused.shape[-2:]
        with named_errors(_NAME):
            if self.weights["patch"]:
                check_sizes((height, width), self.patch_side[0], self.place)
            if self.known is not None:
                descriptions_of(
                    self.known, sample.sample_ids, f"{self.place}.degradations={self.degradations}"
                )
        if self.features is not None and self.features.vgg is not None and min(height, width) < 8:
            raise ValueError(
                f"{_NAME}: {self.features.vgg.network} needs crops of 8 px or more, got {height}x{width}"
            )

    def notices(self, steps: int) -> list[str]:
        """Name what was set for terms of weight 0."""
        found = super().notices(steps)
        for term, names in _OF_TERM.items():
            if not self.weights[term]:
                found += self.unused(f"{term}_weight is 0", **{name: self.given[name] for name in names})
        if not self.weights["global"] and not self.weights["patch"]:
            found += self.unused(
                "no term with texts is in use", **{name: self.given[name] for name in _TEXTS}
            )
        return found

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Return the weighted sum.

        `terms` has `positive`, L(P) + L(E) of whole images, `negative`, A(Q) + A(D), both sums for `patch`es,
        and `perceptual`, where their weights are above 0; `kept`, the share of patches that count, and
        `described`, the share of images with texts of their own.
        """
        weights = self.weights
        layers = () if self.features is None else self.features.of_clip
        both = torch.cat([inputs.visible, inputs.infrared])
        seen_fused, seen_both = self._views(inputs, both)
        with torch.no_grad():  # first, which moves CLIP to their device
            sources, source_features = self.clip.encode_with_features(seen_both, layers, "squash")
        visible, infrared = sources.chunk(2)
        texts, described = self._embed_texts(inputs)
        terms: dict[str, Tensor] = {}
        log: dict[str, Tensor] = {}
        features: dict[str, Tensor] = {}
        if weights["global"] or layers:
            fused, features = self.clip.encode_with_features(seen_fused, layers, "squash")
            if weights["global"]:
                positive, negative = direction_losses(fused, visible, infrared, texts)
                terms["global"] = positive.mean() + negative.mean()
                log = {"positive": positive.detach().mean(), "negative": negative.detach().mean()}
        if weights["patch"]:
            terms["patch"], log["kept"] = self._patch_term(inputs, visible, infrared, texts)
        if self.features is not None:
            terms["perceptual"] = self.features(features, source_features, inputs.fused, both)
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        log |= {name: term.detach() for name, term in terms.items() if name != "global"}
        if weights["global"] or weights["patch"]:
            log["described"] = described
        return LossOutput(total.to(inputs.fused.dtype), log)

    def _patch_term(
        self, inputs: LossInputs, visible: Tensor, infrared: Tensor, texts: Texts
    ) -> tuple[Tensor, Tensor]:
        """Return the mean over patches, and the share of patches that count."""
        patches = seen_patches(inputs, self._places(inputs), self.clip.preprocess.size)
        total = len(patches.fused)
        gates = entropy(patches.sources.flatten(0, 1)).view(-1, 2) > self.entropy_bits
        patches, counts = patches.that_count(gates.any(dim=1))
        gates = gates if len(gates) == len(counts) else gates[gates.any(dim=1)]

        def losses_of(fused: Tensor, visible: Tensor, infrared: Tensor, part: slice) -> Tensor:
            rows = patches.image[part]
            positive, negative = direction_losses(fused, visible, infrared, texts.of(rows), gates[part])
            return positive + negative

        losses = patch_losses(
            self.clip, patches, (visible, infrared), losses_of, self.patch_source, self.clip_batch
        )
        losses, number = torch.where(counts, losses, 0.0), counts.sum()
        return patch_mean(losses, number, total, self.patch_mean, self.training), number / total

    def _places(self, inputs: LossInputs) -> PatchPlaces:
        shape = inputs.fused.shape[-2], inputs.fused.shape[-1]
        seeds = patch_seeds(inputs)
        return affine_places(shape, seeds, self.patches, self.patch_side, degrees=3.0, zoom=1.0, shear=3.0)

    def _views(self, inputs: LossInputs, both: Tensor) -> tuple[Tensor, Tensor]:
        """Return what CLIP sees of the fused images, (N, 1, h, w), and of both bands, (2N, 1, h, w)."""
        if self.view == "whole" or not self.training:
            return inputs.fused, both
        seeds = [derived_seed(inputs.seed, inputs.step, "view", name) for name in inputs.sample_ids]
        planes = torch.cat([inputs.fused, inputs.visible, inputs.infrared], dim=1)
        fused, visible, infrared = random_views(planes, seeds, self.clip.preprocess.size).split(1, dim=1)
        return fused, torch.cat([visible, infrared])

    def _descriptions(self, inputs: LossInputs) -> list[Description]:
        if self.degradations == "measured":
            return measured_descriptions(inputs.infrared, inputs.visible)
        if self.known is None:
            return [Description()] * len(inputs.sample_ids)
        if self.training:
            return descriptions_of(
                self.known, inputs.sample_ids, f"{self.place}.degradations={self.degradations}"
            )
        return [self.known.get(name, Description()) for name in inputs.sample_ids]

    def _embed_texts(self, inputs: LossInputs) -> tuple[Texts, Tensor]:
        """Return the embeddings of all texts, and the share of images with texts of their own."""
        words, count = self.texts, len(inputs.sample_ids)
        general = words["text"], words["antonym"]
        if self.degradations == "measured" and not sending.reads_freely(inputs.fused.device):
            positive, negative, share = embed_measured(self.clip, inputs.infrared, inputs.visible, general)
        else:
            own = self._descriptions(inputs)
            positive = self.clip.encode_text([each.positive or general[0] for each in own])
            negative = self.clip.encode_text([each.negative or general[1] for each in own])
            share = positive.new_full((), sum(each != Description() for each in own) / max(count, 1))
        P, Q, visible, infrared = self.clip.encode_text(list(words.values()))
        texts = Texts((P.expand(count, -1), positive), (Q.expand(count, -1), negative), visible, infrared)
        return texts, share
