"""LDFusion's language-driven loss: move from the sources the way the texts say, judged by a frozen CLIP."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from clipfuse.clip.encoder import FrozenClip
from clipfuse.clip.perceptual import MaximumFeatures
from clipfuse.clip.similarity import cosine, direction_loss
from clipfuse.losses.base import FusionLoss
from clipfuse.ops.chunks import in_chunks
from clipfuse.ops.entropy import entropy
from clipfuse.ops.patches import PatchPlaces, affine_places, cut_patches, perspective_places
from clipfuse.ops.ranks import mean_over_ranks
from clipfuse.ops.seeding import derived_seed
from clipfuse.types import LossInputs, LossOutput

Texts = str | Sequence[str]
_SMALLEST = 8  # pixels of the image in a patch; below, there is nothing to judge


@dataclass(frozen=True)
class _Release:
    text: Texts
    visible_text: Texts
    infrared_text: Texts
    weights: Mapping[str, float]
    visible_share: float
    layer_weights: tuple[float, ...]
    patches: int
    patch_side: tuple[float, float]
    patch_filter: Literal["entropy", "loss", "none"]


RELEASES: Mapping[int, _Release] = {
    2025: _Release(
        "a clear image with detailed background and salient objects",
        "a visible gray image",
        "an infrared image",
        {"global": 2.0, "patch": 10.0, "similarity": 6.0, "perceptual": 10.0},
        visible_share=0.5,
        layer_weights=(1.0, 1.0, 1.0),
        patches=32,
        patch_side=(0.5, 0.8),
        patch_filter="entropy",
    ),
    2024: _Release(
        "a vivid image with clear background and obvious objects",
        "a visible light gray image",
        "an infrared image",
        {"global": 2.0, "patch": 10.0, "similarity": 6.0, "perceptual": 12.0},
        visible_share=0.35,
        layer_weights=(0.1, 0.4, 0.5),
        patches=40,
        patch_side=(0.25, 0.5),
        patch_filter="loss",
    ),
}


class LDFusionLoss(FusionLoss):
    """Language direction of the whole image and of patches, similarity to both sources, maximum features.

    total = w_g mean L(F) + w_p mean_patches k L(patch of F) + w_s mean S(F) + w_f sum_l v_l MSE(f_l(F), m_l)

    L is half the direction loss from the visible image plus half that from the infrared one, S one minus the
    cosines to both, f_l features of a frozen network and m_l the larger of those of the two sources.
    k is 1 where the patch counts. Source: Wang et al., "Infrared and Visible Image Fusion with
    Language-driven Loss in CLIP Embedding Space", arXiv 2402.16267, and its releases of November 2025 and
    of 2024, whose values stand wherever an argument is None. Departures: nothing trains CLIP, a fused image
    that equals a source gives finite values, and patches are drawn per image and wholly inside it.

    Patches are the same for fused and sources, drawn by (seed, step, sample id). With `patch_filter: entropy`
    those that do not count are known from the sources alone and CLIP never sees them.

    Args:
        clip: the judge.
        variant: the release whose values are the defaults.
        text: what the fused image should be; embeddings of a list are averaged.
        visible_text: what the visible image is.
        infrared_text: what the infrared image is.
        global_weight: w_g; no weight may be negative, and a term of weight 0 is not computed.
        patch_weight: w_p.
        similarity_weight: w_s.
        perceptual_weight: w_f.
        visible_share: share of the visible image in S, in [0, 1].
        patches: patches per image; None is the release's number, or 8 with the micro CLIP.
        patch_side: sides as shares of the image's shorter side: least and greatest (2025), small and large
            (2024).
        patch_filter: `entropy` counts patches of which both sources have more than `entropy_bits`; `loss`
            those whose L is at least `loss_threshold`; `none` all.
        entropy_bits: of 8.
        loss_threshold: in [0, 2].
        patch_mean: over `all` patches, as released, or the `kept` ones, of all ranks together.
        patch_source: L of a patch starts from the `whole` sources, as released, or from its own `patch`.
        clip_batch: patches per pass of CLIP: bounds memory, changes no result.
        perceptual: features of `vgg19` (after the activation) or of `clip`; `auto` takes clip for the micro
            CLIP and vgg19, as released, for others.
        perceptual_layers: as `layers` of `MaximumFeatures`.
        layer_weights: v_l.
        vgg_weights: as there.

    Raises:
        ValueError: an argument out of range, an empty or over-long text, a CLIP without the features asked
            for, weights of vgg19 that cannot be had.
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
        perceptual: Literal["auto", "clip", "vgg19"] = "auto",
        perceptual_layers: Sequence[str] | None = None,
        layer_weights: Sequence[float] | None = None,
        vgg_weights: str | None = None,
    ) -> None:
        super().__init__()
        if variant not in RELEASES:
            raise ValueError(f"ldfusion loss: variant is {variant}; expected 2024 or 2025")
        release = RELEASES[variant]
        micro = clip.identity["model"] == "micro"
        given = {
            "global": global_weight,
            "patch": patch_weight,
            "similarity": similarity_weight,
            "perceptual": perceptual_weight,
        }
        self.clip = clip
        self.weights = {
            name: release.weights[name] if value is None else value for name, value in given.items()
        }
        self.release = replace(
            release,
            text=release.text if text is None else text,
            visible_text=release.visible_text if visible_text is None else visible_text,
            infrared_text=release.infrared_text if infrared_text is None else infrared_text,
            visible_share=release.visible_share if visible_share is None else visible_share,
            layer_weights=release.layer_weights if layer_weights is None else (*layer_weights,),
            patches=patches if patches is not None else 8 if micro else release.patches,
            patch_side=release.patch_side if patch_side is None else (patch_side[0], patch_side[1]),
            patch_filter=release.patch_filter if patch_filter is None else patch_filter,
        )
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
            with _named():
                self.features = MaximumFeatures(
                    clip, network, perceptual_layers, self.release.layer_weights, vgg_weights
                )

    def setup(self, sample: LossInputs) -> None:
        """Refuse images too small for patches or for the layers of vgg19."""
        height, width = sample.fused.shape[-2:]
        side = self.release.patch_side[0] * min(height, width)
        if self.weights["patch"] and side < _SMALLEST:
            raise ValueError(
                f"ldfusion loss: the smallest patches of {height}x{width} images would have {side:.1f} px, "
                f"expected {_SMALLEST} or more; raise loader.crop_size or loss.patch_side"
            )
        if self.features is not None and self.features.vgg is not None and min(height, width) < 8:
            raise ValueError(f"ldfusion loss: vgg19 needs crops of 8 px or more, got {height}x{width}")

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Return the weighted sum; `terms` has those whose weight is not 0, and the share of patches kept."""
        weights, texts = self.weights, self._texts()
        judged = () if self.features is None else self.features.of_clip
        both = torch.cat([inputs.visible, inputs.infrared])
        with torch.no_grad():
            sources, source_features = self._see(both, judged)
        visible, infrared = sources.chunk(2)
        terms: dict[str, Tensor] = {}
        features: dict[str, Tensor] = {}
        if weights["global"] or weights["similarity"] or judged:
            fused, features = self._see(inputs.fused, judged)
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
        """Return the mean over patches and the share of them that counts."""
        places, size = self._places(inputs), self.clip.preprocess.size
        patches, total = cut_patches(inputs.fused, places, size), len(inputs.fused) * self.release.patches
        with torch.no_grad():
            sources = cut_patches(torch.cat([inputs.visible, inputs.infrared], dim=1), places, size)
        image = torch.arange(total, device=patches.device) // self.release.patches
        if self.release.patch_filter == "entropy":
            bits = entropy(sources.flatten(0, 1)).view(-1, 2)
            chosen = (bits > self.entropy_bits).all(dim=1).nonzero().squeeze(1)
            patches, sources, image = patches[chosen], sources[chosen], image[chosen]

        def judge(rows: Tensor, part: slice) -> Tensor:
            if self.patch_source == "whole":
                starts = visible[image[part]], infrared[image[part]]
            else:
                with torch.no_grad():
                    pairs = sources[part].transpose(0, 1).flatten(0, 1).unsqueeze(1)
                    visible_start, infrared_start = self.clip.encode_image(pairs).chunk(2)
                    starts = visible_start, infrared_start
            return language_loss(self.clip.encode_image(rows), *starts, *texts)

        losses = in_chunks(judge, patches, self.clip_batch)
        if self.release.patch_filter == "loss":
            counts = losses.detach() >= self.loss_threshold
            losses = torch.where(counts, losses, 0.0)
            number = counts.sum()
        else:
            number = torch.tensor(len(losses), device=losses.device)
        if self.patch_mean == "all":
            return losses.sum() / total, number / total
        # In validation ranks may have different numbers of batches, and must not wait for one another.
        return mean_over_ranks(losses, number, together=self.training), number / total

    def _places(self, inputs: LossInputs) -> PatchPlaces:
        shape = inputs.fused.shape[-2], inputs.fused.shape[-1]
        seeds = [derived_seed(inputs.seed, inputs.step, "patches", name) for name in inputs.sample_ids]
        return self.draw(shape, seeds, self.release.patches, self.release.patch_side)

    def _see(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Squash whole images to CLIP's size, as released."""
        if layers:
            return self.clip.encode_with_features(images, layers, resize="squash")
        return self.clip.encode_image(images, resize="squash"), {}

    def _texts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean embedding (D,) of each text; CLIP computes each text once."""
        means = []
        for name in ("text", "visible_text", "infrared_text"):
            texts: Texts = getattr(self.release, name)
            texts = [texts] if isinstance(texts, str) else list(texts)
            if not texts or not all(isinstance(each, str) and each.strip() for each in texts):
                raise ValueError(f"ldfusion loss: {name} is {texts!r}; expected words, or a list of texts")
            with _named(name):
                means.append(self.clip.encode_text(texts).mean(dim=0))
        return means[0], means[1], means[2]

    def _check_numbers(self) -> None:
        release = self.release
        for name, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"ldfusion loss: {name}_weight is {weight}; expected 0 or more")
        if not any(self.weights.values()):
            raise ValueError("ldfusion loss: all weights are 0, nothing would be trained; set one above 0")
        low, high = release.patch_side
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"ldfusion loss: patch_side is {[low, high]}; expected two shares of the image's shorter "
                "side, 0 < first <= second <= 1: a patch cannot be larger than the image"
            )
        for name, value in {"patches": release.patches, "clip_batch": self.clip_batch}.items():
            if value < 1:
                raise ValueError(f"ldfusion loss: {name} is {value}; expected 1 or more")
        if not 0 <= release.visible_share <= 1:
            raise ValueError(f"ldfusion loss: visible_share is {release.visible_share}; expected 0 to 1")


def language_loss(
    fused: Tensor,
    visible: Tensor,
    infrared: Tensor,
    text: Tensor,
    visible_text: Tensor,
    infrared_text: Tensor,
) -> Tensor:
    """Return how far the ways from both sources are from what the texts say, (N,) in [0, 2].

    Args:
        fused: embeddings (N, D), need not be normalised; nor the others.
        visible: (N, D).
        infrared: (N, D).
        text: (D,) or (N, D), as are the other two.
        visible_text: of the visible image.
        infrared_text: of the infrared image.
    """
    from_visible = direction_loss(fused, visible, text, visible_text)
    return (from_visible + direction_loss(fused, infrared, text, infrared_text)) / 2


def similarity_loss(fused: Tensor, visible: Tensor, infrared: Tensor, visible_share: float = 0.5) -> Tensor:
    """Return one minus the cosines to both sources, weighted, (N,) in [0, 2]; embeddings are (N, D)."""
    share = visible_share * cosine(fused, visible) + (1 - visible_share) * cosine(fused, infrared)
    return 1 - share


@contextmanager
def _named(*what: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(": ".join(["ldfusion loss", *what, str(error)])) from error
