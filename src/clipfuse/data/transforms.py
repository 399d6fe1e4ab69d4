"""From a stored pair to a batch of one: random patches for training, whole images for validation and test."""

from collections.abc import Sequence
from dataclasses import fields, replace
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
from clipfuse.types import IGNORED, Boxes, FusionBatch

SMALLEST_CROP = 16
LEAST_SHARE = 0.1
"""A box of which a crop holds less than this share of its area is no object of the crop."""


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
    continued by reflection; what is continued has no label: its class is `IGNORED`, and it has no boxes.
    Boxes are cut at the border of the patch, and left out where less than `LEAST_SHARE` of their area is
    inside (own design: a sliver of an object shows no object, and detectors count it as missed).

    Every draw depends on (seed, position, sample_id) alone, not on ranks, workers or resume, nor on the
    global random state, which is left as it was.

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
        "classes": None if pair.classes is None else _ClassMap(pair.classes),
        "boxes": None if pair.boxes is None else _tv_boxes(pair.boxes, height, width),
    }
    draw = v2.Compose([_Crop(crop_size), v2.RandomHorizontalFlip()])
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed the generators of GPUs, which fork_rng would not restore.
        torch.default_generator.manual_seed(derived_seed(seed, position, sample_id))
        for _ in range(attempts):
            drawn = draw(stored)
            if pair.boxes is not None:
                drawn["boxes"] = _inside(pair.boxes, drawn["boxes"].as_subclass(Tensor))
            patch = whole(Pair(**drawn, caption=pair.caption), sample_id)
            if max(patch.infrared.std(), patch.visible.std()) >= min_std:
                break
    return patch


def whole(pair: Pair, sample_id: str = "0") -> FusionBatch:
    """Return a pair in its full size as a batch of one.

    Returns:
        `infrared`, `visible` (luma) (1, 1, H, W) and `chroma` (1, 2, H, W), float32 in [0, 1]; `target_mask`
        (1, 1, H, W) bool, `reference` (1, 1, H, W) float32 in [0, 1], `classes` (1, H, W) int64, `boxes` and
        `captions`, None where the pair has none.
    """
    mask, reference, classes = pair.target_mask, pair.reference, pair.classes
    luma, chroma = rgb_to_luma_chroma(to_unit(_plain(pair.visible)))
    return FusionBatch(
        infrared=to_unit(_plain(pair.infrared)),
        visible=luma,
        chroma=chroma,
        sample_ids=(sample_id,),
        target_mask=None if mask is None else _plain(mask),
        reference=None if reference is None else to_unit(_plain(reference)),
        classes=None if classes is None else _plain(classes).long(),
        boxes=None if pair.boxes is None else (pair.boxes,),
        captions=None if pair.caption is None else (pair.caption,),
    )


def collate(batches: Sequence[FusionBatch]) -> FusionBatch:
    """Join batches of one image size; a field that one of them lacks is None."""
    joined: dict[str, Any] = {}
    for field in fields(FusionBatch):
        parts = [getattr(batch, field.name) for batch in batches]
        if any(part is None for part in parts):
            joined[field.name] = None
        elif isinstance(parts[0], Tensor):
            joined[field.name] = torch.cat(parts)
        else:
            joined[field.name] = tuple(each for part in parts for each in part)
    return FusionBatch(**joined)


class _ClassMap(tv_tensors.Mask):
    """A map of classes, which is not continued by reflection as the mask of targets is."""


class _Crop(v2.RandomCrop):
    """A random square; an image that is smaller is continued by reflection, its labels are not."""

    def __init__(self, size: int) -> None:
        super().__init__(size, pad_if_needed=True, fill={_ClassMap: IGNORED, "others": 0})

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Continue and cut one plane, or move the boxes."""
        labels = isinstance(inpt, _ClassMap | tv_tensors.BoundingBoxes)
        self.padding_mode = "constant" if labels else "reflect"
        return super().transform(inpt, params)


def _tv_boxes(boxes: Boxes, height: int, width: int) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(boxes.xyxy, format="XYXY", canvas_size=(height, width))


def _inside(before: Boxes, cut: Tensor) -> Boxes:
    """Return the boxes that were cut, without those of which too little is left."""
    areas, left = ((xyxy[:, 2:] - xyxy[:, :2]).clamp(min=0).prod(dim=1) for xyxy in (before.xyxy, cut))
    kept = (left > 0) & (left >= LEAST_SHARE * areas)
    return replace(before, xyxy=cut[kept], classes=before.classes[kept])


def _plain(stored: Tensor) -> Tensor:
    """Return a stored plane as an ordinary tensor, not one of torchvision's, with a batch dimension."""
    return stored.as_subclass(Tensor)[None]
