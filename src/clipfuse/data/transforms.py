"""From a stored pair to a batch of one: random patches for training, whole images for validation and test."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from clipfuse.data.pairs import Pair
from clipfuse.errors import UserError
from clipfuse.ops.color import rgb_to_luma_chroma
from clipfuse.ops.depth import to_unit
from clipfuse.ops.seeding import derived_seed
from clipfuse.types import FusionBatch

SMALLEST_CROP = 16


def paired_crop(
    pair: Pair,
    crop_size: int,
    seed: int,
    position: int,
    sample_id: str,
    min_std: float = 0.05,
    attempts: int = 8,
) -> FusionBatch:
    """Cut one random square from all planes of a pair, and mirror it left to right half of the time.

    A patch with little contrast in both bands (standard deviation of the luma below `min_std`) is drawn
    anew, as in LDFusion's release; the last of `attempts` draws is kept. An image smaller than the patch is
    continued by reflection. Every draw depends on (seed, position, sample_id) alone, not on ranks, workers
    or resume, nor on the global random state, which is left as it was.

    Args:
        pair: the pair as stored.
        crop_size: side of the patch in pixels.
        seed: the training's seed.
        position: number of samples drawn in the whole training before this one, over all ranks.
        sample_id: the pair's name.
        min_std: least standard deviation, for values in [0, 1]; 0 keeps the first draw.
        attempts: greatest number of draws, 1 or more.

    Returns:
        The patch as a batch of one, in the form of `whole`.

    Raises:
        UserError: the image is too small to be continued to the patch by reflection.
    """
    height, width = pair.infrared.shape[-2:]
    if crop_size >= 2 * min(height, width):
        most = 2 * min(height, width) - 1
        remedy = f"set loader.crop_size to at most {most}, or leave the image out"
        raise UserError(
            f"{sample_id} is {width} x {height} pixels, too small for patches of {crop_size}; "
            f"{remedy if most >= SMALLEST_CROP else 'leave the image out'}"
        )
    # v2 changes tensors of its own types together, but of ordinary tensors only the first.
    stored = {
        "infrared": tv_tensors.Image(pair.infrared),
        "visible": tv_tensors.Image(pair.visible),
        "target_mask": None if pair.target_mask is None else tv_tensors.Mask(pair.target_mask),
        "reference": None if pair.reference is None else tv_tensors.Image(pair.reference),
    }
    crop = v2.RandomCrop(crop_size, pad_if_needed=True, padding_mode="reflect")
    draw = v2.Compose([crop, v2.RandomHorizontalFlip()])
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed the generators of GPUs, which fork_rng would not restore.
        torch.default_generator.manual_seed(derived_seed(seed, position, sample_id))
        for _ in range(attempts):
            patch = whole(Pair(**draw(stored)), sample_id)
            if max(patch.infrared.std(), patch.visible.std()) >= min_std:
                break
    return patch


def whole(pair: Pair, sample_id: str = "0") -> FusionBatch:
    """Return a pair in its full size as a batch of one.

    Returns:
        `infrared`, `visible` (luma) (1, 1, H, W) and `chroma` (1, 2, H, W), float32 in [0, 1]; `target_mask`
        (1, 1, H, W) bool and `reference` (1, 1, H, W) float32 in [0, 1], None where the pair has none.
    """
    mask, reference = pair.target_mask, pair.reference
    luma, chroma = rgb_to_luma_chroma(to_unit(_plain(pair.visible)))
    return FusionBatch(
        infrared=to_unit(_plain(pair.infrared)),
        visible=luma,
        chroma=chroma,
        sample_ids=(sample_id,),
        target_mask=None if mask is None else _plain(mask),
        reference=None if reference is None else to_unit(_plain(reference)),
    )


def collate(batches: Sequence[FusionBatch]) -> FusionBatch:
    """Join batches of one image size; a plane that one of them lacks is None."""
    planes: dict[str, Any] = {}
    for name in ("infrared", "visible", "chroma", "target_mask", "reference"):
        parts = [getattr(batch, name) for batch in batches]
        planes[name] = None if any(part is None for part in parts) else torch.cat(parts)
    return FusionBatch(sample_ids=tuple(name for batch in batches for name in batch.sample_ids), **planes)


def _plain(stored: Tensor) -> Tensor:
    """Return a stored plane as an ordinary tensor, not one of torchvision's, with a batch dimension."""
    return stored.as_subclass(Tensor)[None]
