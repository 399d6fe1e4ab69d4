"""Building blocks of attention backbones, written for channels-last tensors.

Feature maps are (N, C, H, W) by shape; kept in `torch.channels_last` they make the norm over channels
and the 1x1 convolutions one pass each: training on a CPU is 1.5 to 2.2 times faster than in the other order.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipfuse.ops.strips import strip_rows, strips

_FEW = 32  # channels up to which PyTorch's layer norm, made for long rows, is slower than its parts


def as_pixels(image: Tensor) -> Tensor:
    """Return (1, C, H, W) as (HW, C); a view of whole rows in `torch.channels_last`."""
    return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])


def as_image(pixels: Tensor, width: int) -> Tensor:
    """Undo `as_pixels`."""
    return pixels.view(1, -1, width, pixels.shape[1]).permute(0, 3, 1, 2)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel, with scale and shift.

    Unlike batch norm it couples neither samples nor pixels. Source: Ba et al., 2016, as used by
    Restormer (Zamir et al., CVPR 2022, "WithBias").

    Made with the number of channels.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, dim, H, W) of mean 0 and variance 1 over channels, scaled and shifted."""
        return super().forward(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def of_strip(self, pixels: Tensor) -> Tensor:
        """Return the same of (P, dim) pixels, without gradient; in half the time where channels are few."""
        dim = pixels.shape[1]
        if dim > _FEW or pixels.element_size() < 4:
            return super().forward(pixels)
        mean = pixels.new_full((dim, 1), 1 / dim)
        centred = pixels - pixels @ mean
        scale = (centred.square() @ mean).add_(self.eps).rsqrt_()
        return torch.addcmul(self.bias, centred.mul_(scale), self.weight)


class ChannelAttention(nn.Module):
    """Attention between channels instead of pixels: linear in the number of pixels.

    With q, k, v = conv3x3(conv1x1(x)) split into heads of c = dim / heads channels, flattened to (c, HW):
    out = project(softmax(temperature * cos(q, k)) v), the cosine taken between whole channels.
    Source: transposed attention of Restormer (Zamir et al., CVPR 2022, eq. 1).

    Only q, k, v and the result have the size of the image: the cosines come from one Gram matrix and the
    channel norms, which are sums over pixels, and the attention is multiplied by the projection before v.
    The heads use the diagonal blocks of the (dim, dim) Gram matrix: one large product is faster than `heads`
    small ones.

    Args:
        dim: channels.
        heads: divides dim.
        dense: a full 3x3 convolution instead of the depthwise one, as in the base branch of CDDFuse (Zhao
            et al., CVPR 2023); 3 dim times the weights.

    Raises:
        ValueError: heads does not divide dim.
    """

    def __init__(self, dim: int, heads: int, dense: bool = False) -> None:
        super().__init__()
        if heads < 1 or dim < 1 or dim % heads:
            raise ValueError(f"attention: {heads} heads and dim {dim}; the heads must divide dim")
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.expand = nn.Conv2d(dim, 3 * dim, 1, bias=False)
        self.spread = nn.Conv2d(3 * dim, 3 * dim, 3, padding=1, groups=1 if dense else 3 * dim, bias=False)
        self.project = nn.Linear(dim, dim, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, dim, H, W)."""
        samples, dim, height, width = features.shape
        pixels = self.spread(self.expand(features)).permute(0, 2, 3, 1).reshape(samples, height * width, -1)
        query, key, value = pixels.split(dim, dim=-1)
        lengths = [torch.linalg.vector_norm(part, dim=1) for part in (query, key)]
        mixed = value @ self._mixing(query.transpose(1, 2) @ key, *lengths)
        return mixed.view(samples, height, width, dim).permute(0, 3, 1, 2)

    def in_strips(self, features: Tensor, norm: ChannelNorm, rows: int) -> tuple[Tensor, Tensor]:
        """Return the value of a normalised sample, (HW, dim), and the matrix (dim, dim) that mixes it.

        Args:
            features: (1, dim, H, W) in `torch.channels_last`.
            norm: is applied to them first.
            rows: of each strip.
        """
        dim, height, width = features.shape[1:]
        value = features.new_empty(height * width, dim)
        gram, squares = features.new_zeros(dim, dim), features.new_zeros(2 * dim)
        for own, reach, inner in strips(height, rows):
            normal = as_image(norm.of_strip(as_pixels(features[:, :, reach])), width)
            pixels = as_pixels(self.spread(self.expand(normal))[:, :, inner])
            asked = pixels[:, : 2 * dim]
            gram += asked[:, :dim].T @ asked[:, dim:]
            squares += asked.square().sum(0)
            value[own.start * width : own.stop * width] = pixels[:, 2 * dim :]
        query, key = squares.sqrt()[None].chunk(2, dim=1)
        return value, self._mixing(gram[None], query, key)[0]

    def _mixing(self, gram: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Return the matrix that makes output of value, (N, dim, dim).

        Args:
            gram: products of the channels of query and key, summed over pixels, (N, dim, dim).
            query: lengths of its channels, (N, dim).
            key: the same.
        """
        samples, dim = query.shape
        size = dim // self.heads
        gram = gram.view(samples, self.heads, size, self.heads, size)
        own = gram.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
        rows, columns = (part.clamp_min(1e-6).view(samples, self.heads, size) for part in (query, key))
        cosine = own / (rows.unsqueeze(-1) * columns.unsqueeze(-2))
        attention = (cosine * self.temperature).softmax(dim=-1)
        project = self.project.weight.view(dim, self.heads, size).transpose(0, 1)
        return (project @ attention).transpose(1, 2).reshape(samples, dim, dim).transpose(1, 2)


class GatedFeedForward(nn.Module):
    """Feed-forward layer in which one half gates the other, with a depthwise 3x3 before.

    out = conv1x1(GELU(a) * b), where a, b = depthwise3x3(conv1x1(x)). Source: GDFN of Restormer
    (Zamir et al., CVPR 2022, eq. 2).

    Args:
        dim: channels.
        expansion: channels of each half, as a multiple of dim.
    """

    def __init__(self, dim: int, expansion: int) -> None:
        super().__init__()
        hidden = 2 * expansion * dim
        self.expand = nn.Conv2d(dim, hidden, 1, bias=False)
        self.spread = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False)
        self.project = nn.Conv2d(hidden // 2, dim, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, dim, H, W)."""
        return self.gated(self.spread(self.expand(features)))

    def gated(self, inside: Tensor) -> Tensor:
        """Return the result from both halves, (N, 2 * expansion * dim, H, W)."""
        gate, content = inside.chunk(2, dim=1)
        if gate.shape[1] % _FEW:  # rows of fewer channels that do not lie together are computed one by one
            gate = gate.clone()
        return self.project(F.gelu(gate) * content)


class RestormerBlock(nn.Module):
    """Channel attention, then gated feed-forward, each normalised before and added to its input.

    Without gradient, on a CPU, large images are computed in strips of rows, with the same values but for
    rounding: one pass for the attention's sums over all pixels, another one for the rest. The wide features
    between two steps then stay in the cache, and take no new memory, which the kernel would fill with zeros.

    Args:
        dim: channels.
        heads: heads of the attention; divides dim.
        expansion: expansion of the feed-forward layer.
        dense: full 3x3 convolution in the attention, as in `ChannelAttention`.
    """

    def __init__(self, dim: int, heads: int, expansion: int = 2, dense: bool = False) -> None:
        super().__init__()
        self.attention_norm = ChannelNorm(dim)
        self.attention = ChannelAttention(dim, heads, dense)
        self.feed_forward_norm = ChannelNorm(dim)
        self.feed_forward = GatedFeedForward(dim, expansion)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, dim, H, W)."""
        if rows := strip_rows(features, self.feed_forward.expand.out_channels):
            return self._in_strips(features.contiguous(memory_format=torch.channels_last), rows)
        features = features + self.attention(self.attention_norm(features))
        return features + self.feed_forward(self.feed_forward_norm(features))

    def _in_strips(self, features: Tensor, rows: int) -> Tensor:
        result = torch.empty_like(features)
        width = features.shape[3]
        for sample, made in zip(features.split(1), result.split(1), strict=True):
            value, mixing = self.attention.in_strips(sample, self.attention_norm, rows)
            for own, reach, inner in strips(features.shape[2], rows):
                start = as_pixels(sample[:, :, reach])
                attended = start.addmm(value[reach.start * width : reach.stop * width], mixing)
                image = as_image(attended, width)
                inside = self.feed_forward.expand(as_image(self.feed_forward_norm.of_strip(attended), width))
                added = self.feed_forward.gated(self.feed_forward.spread(inside)[:, :, inner])
                torch.add(image[:, :, inner], added, out=made[:, :, own])
        return result


class InvertibleNode(nn.Module):
    """One affine coupling step: no detail is lost, since the input can be computed from the output.

    (u, l) = halves of conv1x1(x); l' = l + f(u); u' = u * exp(g(l')) + h(l'); f, g, h are inverted
    bottlenecks. Source: the detail node of CDDFuse (Zhao et al., CVPR 2023), after RealNVP (Dinh et al.,
    ICLR 2017). Two departures unless `published`: g is bounded by tanh, without which one large feature
    overflows the exponential, and the borders of f, g, h are zero instead of mirrored.

    Args:
        dim: channels, even.
        published: the unbounded exponent and mirrored borders of the source.

    Raises:
        ValueError: dim is odd or less than 2.
    """

    def __init__(self, dim: int, published: bool = False) -> None:
        super().__init__()
        if dim < 2 or dim % 2:
            raise ValueError(f"invertible node: dim {dim}; expected an even number, to be halved")
        self.published = published
        self.mix = nn.Conv2d(dim, dim, 1)
        nn.init.orthogonal_(self.mix.weight)
        self.lower_shift, self.upper_scale, self.upper_shift = (
            _bottleneck(dim // 2, "reflect" if published else "zeros") for _ in range(3)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, dim, H, W)."""
        upper, lower = self.mix(features).chunk(2, dim=1)
        lower = lower + self.lower_shift(upper)
        upper = upper * self._exponent(lower).exp() + self.upper_shift(lower)
        return torch.cat([upper, lower], dim=1)

    def inverse(self, features: Tensor) -> Tensor:
        """Return the x for which `forward(x)` is `features`, (N, dim, H, W).

        Raises:
            RuntimeError: training has made the 1x1 convolution singular.
        """
        upper, lower = features.chunk(2, dim=1)
        upper = (upper - self.upper_shift(lower)) * (-self._exponent(lower)).exp()
        lower = lower - self.lower_shift(upper)
        assert self.mix.bias is not None
        mixed = torch.cat([upper, lower], dim=1) - self.mix.bias.view(-1, 1, 1)
        return torch.linalg.solve(self.mix.weight.flatten(1), mixed.flatten(2)).reshape(mixed.shape)

    def _exponent(self, lower: Tensor) -> Tensor:
        exponent: Tensor = self.upper_scale(lower)
        return exponent if self.published else exponent.tanh()


def _bottleneck(dim: int, padding_mode: Literal["zeros", "reflect"]) -> nn.Sequential:
    """Return an inverted bottleneck: wide inside, depthwise in the plane (MobileNetV2)."""
    hidden = 2 * dim
    return nn.Sequential(
        nn.Conv2d(dim, hidden, 1, bias=False),
        nn.ReLU6(),
        nn.Conv2d(hidden, hidden, 3, padding=1, padding_mode=padding_mode, groups=hidden, bias=False),
        nn.ReLU6(),
        nn.Conv2d(hidden, dim, 1, bias=False),
    )
