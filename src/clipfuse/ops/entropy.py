"""The entropy of images, on their own device and for all of a batch at once."""

import math

import torch
from torch import Tensor


def entropy(images: Tensor, bins: int = 256) -> Tensor:
    """Return the Shannon entropy of each image's histogram, in bits; it has no gradient.

    As LDFusion's release: equal bins over [0, 1], the last one closed; values outside are left out.
    An image without a value in [0, 1] has entropy 0.

    Args:
        images: (N, ...) float.
        bins: number of bins, 1 or more.

    Returns:
        (N,) in [0, log2(bins)], float32 or the type of `images` if that is more precise.
    """
    values = images.detach().flatten(1).float() if images.dtype.itemsize < 4 else images.detach().flatten(1)
    count = len(values)
    inside = (values >= 0) & (values <= 1)
    # One more bin per image takes the values outside: no index depends on the data, so no GPU waits.
    index = torch.where(inside, (values * bins).clamp(0, bins - 1), bins).long()
    index += torch.arange(count, device=index.device).unsqueeze(1) * (bins + 1)
    histogram = torch.zeros(count * (bins + 1), dtype=torch.int64, device=index.device)
    one = torch.ones((), dtype=torch.int64, device=index.device)
    histogram.scatter_add_(0, index.flatten(), one.expand(index.numel()))
    kept = histogram.reshape(count, bins + 1)[:, :bins].to(values.dtype)
    share = kept / kept.sum(dim=1, keepdim=True).clamp(min=1)
    return -torch.xlogy(share, share).sum(dim=1) / math.log(2)
