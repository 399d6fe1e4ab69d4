"""A small network that scores a fused image beside its sources, and marks its artefacts."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipfuse.ops.padding import crop_to, pad_to_multiple

SCORES = ("thermal_retention", "texture_preservation", "artifacts", "sharpness", "overall")
"""The scores of the scorer in the package, after EVAFusion (CVPR 2026); 1 is best, also of `artifacts`."""

_WIDTHS = (24, 48, 64)
_STRIDE = 8  # of the deepest layer


class RewardNetwork(nn.Module):
    """(fused, infrared, visible) -> logits of the scores and of an artefact map. Own design, below 200,000 weights.

    Three levels of 24, 48 and 64 channels at strides of 2, 4 and 8, one residual block each, with group norm
    and no padding by zeros, so that neither the other samples of a batch nor the border matter. The scores
    come by two linear layers from mean and standard deviation of the features of all levels, and from mean
    and maximum of the map.

    Args:
        scores: their names.
        seed: seed of the first weights; the global random state is left as it was.
    """

    def __init__(self, scores: Sequence[str] = SCORES, seed: int = 0) -> None:
        super().__init__()
        self.scores = tuple(scores)
        first, second, third = _WIDTHS
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = nn.Conv2d(3, first, 5, 2, 2, padding_mode="replicate")
            self.first = _Block(first)
            self.down = nn.Conv2d(first, second, 3, 2, 1, padding_mode="replicate")
            self.second = _Block(second)
            self.deep = nn.Conv2d(second, third, 3, 2, 1, padding_mode="replicate")
            self.third = _Block(third)
            self.mark = nn.Conv2d(second + third, 1, 1)
            self.join = nn.Linear(2 * sum(_WIDTHS) + 2, third)
            self.judge = nn.Linear(third, len(self.scores))

    def forward(self, fused: Tensor, infrared: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of the scores and of the map.

        Args:
            fused: luma, (N, 1, H, W) in [0, 1], of any size.
            infrared: the same shape.
            visible: the same shape.

        Returns:
            (N, K), and (N, 1, H, W), greater where an artefact is likelier.
        """
        planes = pad_to_multiple(torch.cat([fused, infrared, visible], 1), _STRIDE)
        at_half = self.first(F.silu(self.stem(4 * planes - 2)))
        at_quarter = self.second(self.down(at_half))
        at_eighth = self.third(self.deep(at_quarter))
        above = F.interpolate(at_eighth, at_quarter.shape[-2:], mode="bilinear", align_corners=False)
        marked = self.mark(torch.cat([at_quarter, above], 1))
        shares = torch.sigmoid(marked).flatten(1)
        levels = (at_half, at_quarter, at_eighth)
        found = [each.mean((2, 3)) for each in levels]
        found += [(each.var((2, 3), correction=0) + 1e-4).sqrt() for each in levels]
        found += [shares.mean(1, keepdim=True), shares.amax(1, keepdim=True)]
        enlarged = F.interpolate(marked, planes.shape[-2:], mode="bilinear", align_corners=False)
        return self.judge(F.silu(self.join(torch.cat(found, 1)))), crop_to(
            enlarged, (fused.shape[-2], fused.shape[-1])
        )


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.GroupNorm(4, width), nn.GroupNorm(4, width)
        self.one = nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate")
        self.two = nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate")

    def forward(self, features: Tensor) -> Tensor:
        change = self.two(F.silu(self.between(self.one(F.silu(self.before(features))))))
        return F.silu(features + change)
