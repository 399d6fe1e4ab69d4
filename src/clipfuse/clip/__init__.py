"""CLIP for losses: frozen encoder, learnable prompts, similarities, and a small bundled model."""

from typing import TYPE_CHECKING

from clipfuse.lazy import attach

if TYPE_CHECKING:
    from clipfuse.clip.encoder import FrozenClip, load_clip
    from clipfuse.clip.loading import find_weights
    from clipfuse.clip.perceptual import MaximumFeatures, maximum_feature_loss
    from clipfuse.clip.preprocess import Preprocess
    from clipfuse.clip.prompts import LearnablePrompts
    from clipfuse.clip.similarity import cosine, direction_loss, pair_probability

__all__ = [
    "FrozenClip",
    "LearnablePrompts",
    "MaximumFeatures",
    "Preprocess",
    "cosine",
    "direction_loss",
    "find_weights",
    "load_clip",
    "maximum_feature_loss",
    "pair_probability",
]
__getattr__, __dir__ = attach(
    __name__,
    {
        "encoder": ("FrozenClip", "load_clip"),
        "loading": ("find_weights",),
        "perceptual": ("MaximumFeatures", "maximum_feature_loss"),
        "preprocess": ("Preprocess",),
        "prompts": ("LearnablePrompts",),
        "similarity": ("cosine", "direction_loss", "pair_probability"),
    },
)
