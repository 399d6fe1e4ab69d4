"""Patches of a fused image and of its sources, and losses that CLIP computes on them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clipfuse.clip.encoder import FrozenClip
from clipfuse.ops import sending
from clipfuse.ops.chunks import in_chunks
from clipfuse.ops.patches import PatchPlaces, cut_patches
from clipfuse.ops.ranks import mean_over_ranks
from clipfuse.ops.seeding import derived_seed
from clipfuse.types import LossInputs

SMALLEST = 8  # side of a patch in pixels of the image; CLIP gets too little from a smaller one
PatchLoss = Callable[[Tensor, Tensor, Tensor, slice], Tensor]
"""(embeddings of M fused patches, of their visible and of their infrared start, their rows) -> (M,)."""


@dataclass(frozen=True)
class SeenPatches:
    """M patches that CLIP is to see.

    Attributes:
        fused: (M, 1, h, w), with graph.
        sources: the same places of the visible and the infrared image, (M, 2, h, w), without graph.
        image: index of each patch's image, (M,) int64.
    """

    fused: Tensor
    sources: Tensor
    image: Tensor

    def __getitem__(self, chosen: Tensor) -> "SeenPatches":
        return SeenPatches(self.fused[chosen], self.sources[chosen], self.image[chosen])

    def that_count(self, counts: Tensor) -> tuple["SeenPatches", Tensor]:
        """Return those for CLIP, and which of these count, (M,) bool.

        A CPU leaves out what does not count. Elsewhere CLIP gets all of them: how many count is known on
        the device alone, and reading it would make the host wait in the middle of each update.

        Args:
            counts: which patches count, (M,) bool.
        """
        if not sending.reads_freely(counts.device):
            return self, counts
        chosen = counts.nonzero().squeeze(1)
        return self[chosen], counts[chosen]


def patch_seeds(inputs: LossInputs) -> list[int]:
    """Return one seed per image for its patches, of (seed, step, sample id)."""
    return [derived_seed(inputs.seed, inputs.step, "patches", name) for name in inputs.sample_ids]


def seen_patches(inputs: LossInputs, places: PatchPlaces, size: tuple[int, int]) -> SeenPatches:
    """Cut the same patches out of fused image and sources, those of one image after another.

    Args:
        inputs: N images.
        places: P patches of each.
        size: height and width of a patch as CLIP sees it.
    """
    fused = cut_patches(inputs.fused, places, size)
    with torch.no_grad():
        sources = cut_patches(torch.cat([inputs.visible, inputs.infrared], dim=1), places, size)
    image = torch.arange(len(fused), device=fused.device) // places.maps.shape[1]
    return SeenPatches(fused, sources, image)


def patch_losses(
    clip: FrozenClip,
    patches: SeenPatches,
    whole: tuple[Tensor, Tensor],
    function: PatchLoss,
    source: Literal["whole", "patch"],
    batch: int,
) -> Tensor:
    """Return the loss of each patch, (M,), with the memory of `batch` patches.

    Args:
        clip: embeds the patches.
        patches: M of them; M may be 0.
        whole: embeddings of the N whole visible and infrared images.
        function: the loss of some patches.
        source: what a patch starts from: the `whole` source images, or the same `patch` of them.
        batch: patches per pass of CLIP, 1 or more.
    """

    def losses(rows: Tensor, part: slice) -> Tensor:
        if source == "whole":
            starts = whole[0][patches.image[part]], whole[1][patches.image[part]]
        else:
            with torch.no_grad():
                pairs = patches.sources[part].transpose(0, 1).flatten(0, 1).unsqueeze(1)
                visible, infrared = clip.encode_image(pairs).chunk(2)
                starts = visible, infrared
        return function(clip.encode_image(rows), *starts, part)

    return in_chunks(losses, patches.fused, batch)


def patch_mean(
    losses: Tensor, number: Tensor, total: int, way: Literal["all", "kept"], together: bool
) -> Tensor:
    """Return the mean of the losses of patches.

    Args:
        losses: (M,); 0 for patches that do not count.
        number: scalar, how many patches of this rank count.
        total: patches of this rank.
        way: mean over `all` patches, or over the `kept` ones of all ranks.
        together: whether all ranks call this at once. In validation they may have different numbers of
            batches, and a collective would wait for ever.
    """
    return losses.sum() / total if way == "all" else mean_over_ranks(losses, number, together)


def check_sides(sides: tuple[float, float]) -> None:
    """Require sides of patches that fit into an image.

    Raises:
        ValueError: they do not; names `patch_side`.
    """
    low, high = sides
    if not 0 < low <= high <= 1:
        raise ValueError(
            f"patch_side is {[low, high]}; expected two shares of the image's shorter "
            "side, 0 < first <= second <= 1: a patch cannot be larger than the image"
        )


def check_sizes(shape: tuple[int, int], side: float, place: str) -> None:
    """Refuse images whose patches are too small.

    Args:
        shape: height and width of the images.
        side: least side of a patch, as a share of the shorter side.
        place: key of the loss in the configuration.

    Raises:
        ValueError: they are; names the settings to change.
    """
    height, width = shape
    if (pixels := side * min(height, width)) < SMALLEST:
        raise ValueError(
            f"the smallest patches of {height}x{width} images would have {pixels:.1f} px, "
            f"expected {SMALLEST} or more; raise loader.crop_size or {place}.patch_side"
        )
