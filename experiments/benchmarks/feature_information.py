"""FMI with all 81 cells of each window's joint distribution, as ClipFuse computed it up to version 1.1."""

import torch
from torch import Tensor
from torch.nn.functional import pad

CELLS = 2**18


def fmi(planes: list[Tensor]) -> Tensor:
    """Return the score of features (1, 1, H, W), fused first, (1,)."""
    _, _, height, width = planes[0].shape
    features = torch.stack([plane.flatten() for plane in planes])
    corners = torch.arange(height * width).view(height, width)[:-2, :-2].flatten()
    positions = (torch.arange(3)[:, None] * width + torch.arange(3)).view(-1, 1)
    scores = []
    for corner in corners.split(CELLS // 81):
        fused, *sources = (_patches(each) for each in features[:, positions + corner])
        scores.append(torch.stack([_agreement(fused, source) for source in sources]).mean(dim=0))
    return torch.cat(scores).mean()[None]


def _patches(values: Tensor) -> tuple[Tensor, ...]:
    values = values - values.amin(0)
    total = values.sum(0)
    flat = total == 0
    share = torch.where(flat, 1 / 9, values / torch.where(flat, 1, total))
    ranks = torch.arange(9, dtype=values.dtype)[:, None]
    spread = (ranks.square() * share).sum(0) - (ranks * share).sum(0).square()
    return share, flat, _entropy(share), torch.where(flat, 0, share.square().sum(0) - 1 / 9), spread


def _agreement(x: tuple[Tensor, ...], y: tuple[Tensor, ...]) -> Tensor:
    (p, flat, entropy, contrast, spread), (q, other_flat, other_entropy, other_contrast, other_spread) = x, y
    overlap = (p * q).sum(0)
    covariance = overlap - 1 / 9
    partner = torch.where(covariance < 0, q.flip(0), q)
    below, above = (pad(share.cumsum(0), (0, 0, 1, 0)) for share in (p, partner))
    below, above = below[:, None], above[None]
    least = torch.minimum(below[1:], above[:, 1:])
    bound = least.sum((0, 1)) - below.sum((0, 1)) * above.sum((0, 1))
    correlation = _ratio(covariance.abs(), (contrast * other_contrast).sqrt())
    mixture = _ratio(correlation * (spread * other_spread).sqrt(), bound).clamp_max(1)
    joint = (least - torch.maximum(below[:-1], above[:, :-1])).clamp_min_(0)
    joint.mul_(mixture).addcmul_((p * (1 - mixture))[:, None], partner)
    entropies = entropy + other_entropy
    information = entropies - _entropy(joint.flatten(0, 1))
    score = torch.where(entropies > 0, _ratio(2 * information, entropies).clamp(0, 1), overlap)
    return torch.where(flat & other_flat, 1, score)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1), 0)


def _entropy(share: Tensor) -> Tensor:
    return -share.clamp_min(1e-300).log_().mul_(share).sum(0)
