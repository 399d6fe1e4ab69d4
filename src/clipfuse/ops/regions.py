"""Regions of images, as masks that may be empty, and means over them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from clipfuse.types import IGNORED


def labelled_regions(classes: Tensor) -> Tensor:
    """Return one region per class of a batch, (N, K, H, W) bool, from (N, H, W) int64 with `IGNORED`."""
    known = classes != IGNORED
    classes = classes.masked_fill(~known, 0)
    return F.one_hot(classes).movedim(-1, 1).bool() & known.unsqueeze(1)


def split(mask: Tensor) -> Tensor:
    """Return a region and the rest of its image, (N, 2, H, W) bool, from a mask (N, 1, H, W) bool."""
    return torch.cat([mask, ~mask], 1)


def above_otsu(plane: Tensor) -> Tensor:
    """Return where each image is above its own threshold of Otsu (1979), (N, 1, H, W) bool.

    Nowhere in an image of one value. By kornia, with 256 bins between the least and the greatest value.

    Args:
        plane: (N, 1, H, W) float; it gets no gradient.
    """
    from kornia.filters import otsu_threshold

    mask: Tensor = otsu_threshold(plane.detach(), nbins=256, return_mask=True)[0]
    return mask


def saliency(plane: Tensor) -> Tensor:
    """Return how far each place, a mean over 5x5 pixels, is from the mean of its image, (N, 1, H, W).

    After the frequency-tuned saliency of Achanta et al. (CVPR 2009), for one channel.
    """
    near = F.avg_pool2d(plane, 5, 1, 2, count_include_pad=False)
    return (near - plane.mean((2, 3), keepdim=True)).abs()


def local_contrast(plane: Tensor) -> Tensor:
    """Return the standard deviation in the 7x7 pixels about each pixel, (N, 1, H, W)."""
    mean, square = (F.avg_pool2d(each, 7, 1, 3, count_include_pad=False) for each in (plane, plane.square()))
    return (square - mean.square()).clamp(min=0).sqrt()


def region_means(values: Tensor, regions: Tensor) -> Tensor:
    """Return the mean of values over each region, (N, K); 0 over an empty one.

    Args:
        values: (N, h, w) float, a map over the whole image, of any size.
        regions: (N, K, H, W) bool; a value counts as much as the region covers of its place.
    """
    weights = F.adaptive_avg_pool2d(regions.to(values.dtype), (values.shape[-2], values.shape[-1]))
    return (weights * values.unsqueeze(1)).sum((2, 3)) / weights.sum((2, 3)).clamp(min=1e-12)
