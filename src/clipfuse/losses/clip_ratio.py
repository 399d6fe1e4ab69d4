"""CLIP with two fixed texts, a wanted and an unwanted one, as a stable log-ratio."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from clipfuse.clip.encoder import FrozenClip
from clipfuse.clip.similarity import pair_probability
from clipfuse.losses.base import FusionLoss, named_errors
from clipfuse.types import LossInputs, LossOutput


class ClipRatioLoss(FusionLoss):
    """A fidelity loss plus -log p(positive text), of a softmax over two fixed texts.

    total = fidelity + w mean -log p_pos,   p_pos = 1 / (1 + exp(s (cos(E(F), T_neg) - cos(E(F), T_pos))))

    The releases of CoRPLE (ECCV 2024) and PromptFusion minimise p_neg / p_pos, with weights 0.2 and 1.
    With a = s (cos(E(F), T_neg) - cos(E(F), T_pos)) that is exp(a), and the guidance here is log(1 + exp(a)):
    the same order of images, bounded below, with a bounded gradient, and nearly equal where p_neg is small.
    The default texts are those of PromptFusion's release, which tokenises but never encodes them.

    Args:
        clip: the CLIP that compares image and texts.
        fidelity: another loss, added with weight 1; None for guidance alone.
        guidance_weight: w, above 0.
        positive: description that the fused image should fit.
        negative: description that it should not fit.

    Raises:
        ValueError: `guidance_weight` is not above 0, a text is empty or longer than CLIP's context.
    """

    def __init__(
        self,
        clip: FrozenClip,
        fidelity: FusionLoss | None = None,
        guidance_weight: float = 0.2,
        positive: str = "This image's fusion is very harmonious, the texture is very clear, the target "
        "is very striking.",
        negative: str = "This image's fusion is not well integrated, the texture is weak, and then the "
        "target is fuzzy, not prominent, and the features are relatively smooth and flat.",
    ) -> None:
        super().__init__()
        if not 0 < guidance_weight < math.inf:
            raise ValueError(f"clip_ratio loss: guidance_weight is {guidance_weight}; expected above 0")
        for name, text in {"positive": positive, "negative": negative}.items():
            if not text.strip():
                raise ValueError(f"clip_ratio loss: {name} is empty; expected words")
        self.clip = clip
        self.fidelity = fidelity
        self.guidance_weight = guidance_weight
        self.texts = [positive, negative]
        with named_errors("clip_ratio loss"):
            clip.encode_text(self.texts)

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Return the weighted sum; `terms` has `guidance`, `p_fused` and those of the fidelity loss."""
        images = self.clip.encode_image(inputs.fused, resize="squash")  # first: moves CLIP to their device
        positive, negative = self.clip.encode_text(self.texts)
        guidance = -pair_probability(images, positive, negative, self.clip.logit_scale, log=True)
        total = self.guidance_weight * guidance.mean().to(inputs.fused.dtype)
        terms: Mapping[str, Tensor] = {}
        if self.fidelity is not None:
            fidelity = self.fidelity(inputs)
            total, terms = total + fidelity.total, fidelity.terms
        detached = guidance.detach()
        return LossOutput(
            total, {**terms, "guidance": detached.mean(), "p_fused": torch.exp(-detached).mean()}
        )
