"""From a stored pair to the tensors of one sample: random patches to train on, whole images to test on."""

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


def paired_crop(
    pair: Pair,
    crop_size: int,
    seed: int,
    position: int,
    sample_id: str,
    min_std: float = 0.05,
    attempts: int = 8,
) -> dict[str, Any]:
    """Cut one random square from all planes of a pair, and mirror it left to right half of the time.

    A patch with little contrast in both bands, standard deviation of the luma below `min_std`,
    is drawn anew, as in LDFusion's release; the last of `attempts` draws is kept. An image
    smaller than the patch is continued by reflection. Every draw depends on (seed, position,
    sample_id) alone: on neither ranks, workers nor resume, nor the global random state, which
    is left as it was.

    Args:
        pair: the pair as stored.
        crop_size: side of the patch in pixels.
        seed: the run's seed.
        position: number of samples drawn in the whole run before this one, over all ranks.
        sample_id: the pair's name.
        min_std: least standard deviation, in units of [0, 1]; 0 takes the first draw.
        attempts: greatest number of draws, 1 or more.

    Returns:
        The patch, in the form of `whole`.

    Raises:
        UserError: if the image is too small to be continued to the patch by reflection.
    """
    height, width = pair.infrared.shape[-2:]
    if crop_size >= 2 * min(height, width):
        raise UserError(
            f"{sample_id} is {width} x {height} pixels, too small for patches of {crop_size}; "
            f"set loader.crop_size to at most {2 * min(height, width) - 1}, or leave the image out"
        )
    # v2 transforms tensors of its own types together, but of plain ones the first alone.
    stored = {
        "infrared": tv_tensors.Image(pair.infrared),
        "visible": tv_tensors.Image(pair.visible),
        "target_mask": None if pair.target_mask is None else tv_tensors.Mask(pair.target_mask),
        "reference": None if pair.reference is None else tv_tensors.Image(pair.reference),
    }
    crop = v2.RandomCrop(crop_size, pad_if_needed=True, padding_mode="reflect")
    draw = v2.Compose([crop, v2.RandomHorizontalFlip()])
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed, and not restore, the generators of GPUs.
        torch.default_generator.manual_seed(derived_seed(seed, position, sample_id))
        for _ in range(attempts):
            patch = whole(Pair(**draw(stored)))
            if max(patch[band].std() for band in ("infrared", "visible")) >= min_std:
                break
    return patch


def whole(pair: Pair) -> dict[str, Any]:
    """Return all of a pair as the planes of a `FusionBatch`, without the batch dimension.

    Returns:
        `infrared` and `visible` (luma) (1, H, W), `chroma` (2, H, W), float32 in [0, 1];
        `target_mask` (1, H, W) bool or None; `reference` (1, H, W) float32 in [0, 1] or None.
    """
    luma, chroma = rgb_to_luma_chroma(to_unit(pair.visible.as_subclass(Tensor)))
    return {
        "infrared": to_unit(pair.infrared.as_subclass(Tensor)),
        "visible": luma,
        "chroma": chroma,
        "target_mask": None if pair.target_mask is None else pair.target_mask.as_subclass(Tensor),
        "reference": None if pair.reference is None else to_unit(pair.reference.as_subclass(Tensor)),
    }
