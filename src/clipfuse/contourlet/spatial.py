"""The same transform by circular convolution and gathering, node by node of the tree.

Plain PyTorch operators only, for `torch.export` and for reading. It is much slower than the frequency
domain: dense 29 x 29 to 85 x 85 filters. Filters have symmetric taps, so convolution is correlation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clipfuse.contourlet import tree
from clipfuse.contourlet.coefficients import band_count
from clipfuse.contourlet.filters import FilterBank, Taps
from clipfuse.contourlet.tree import Pair
from clipfuse.ops.plain import plain_tensors

ROWS = 16  # of taps at a time: each costs the memory of a plane


@dataclass(frozen=True)
class SpatialFilters:
    """Taps for `levels`, float64, each (1, 1, odd, odd) and centred.

    Attributes:
        pyramid: h and g along rows and columns.
        wavelet: analysis LL, LH, HL, HH, then synthesis, for levels of depth 0.
        fans: by (depth, parent), the four filters of `FilterBank.fans` on the parent's lattice.
    """

    pyramid: tuple[Tensor, Tensor]
    wavelet: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
    fans: dict[Pair, tuple[Tensor, ...]]

    @classmethod
    @plain_tensors()
    def build(cls, bank: FilterBank, levels: Sequence[int]) -> "SpatialFilters":
        """Place the bank's taps for every node of the trees of `levels`."""
        h, g = (_line(taps) for taps in bank.pyramid_pair)
        analysis, synthesis = ((h, -_alternate(g)), (g, -_alternate(h)))
        fans = {}
        for depth in range(1, max(levels) + 1):
            for parent in range(1 if depth == 2 else 2 ** (depth - 1)):  # both halves share depth 2's
                fans[depth, parent] = tuple(
                    _place(taps, *tree.own_combination(depth, parent)) for taps in bank.fan_taps()
                )
        order = ((0, 0), (1, 0), (0, 1), (1, 1))
        wavelet = tuple(tuple(_outer(pair[v], pair[u]) for v, u in order) for pair in (analysis, synthesis))
        return cls((_outer(h, h), _outer(g, g)), (wavelet[0], wavelet[1]), fans)


def _line(taps: Taps) -> Tensor:
    return torch.tensor([*reversed(taps[1:]), *taps], dtype=torch.float64)


def _alternate(line: Tensor) -> Tensor:
    signs = torch.ones_like(line)
    signs[1 - (len(line) // 2) % 2 :: 2] = -1
    return line * signs


def _outer(rows: Tensor, columns: Tensor) -> Tensor:
    size = max(len(rows), len(columns))
    rows, columns = (F.pad(line, [(size - len(line)) // 2] * 2) for line in (rows, columns))
    return torch.outer(rows, columns)[None, None]


def _place(taps: Tensor, u: Pair, v: Pair) -> Tensor:
    """Put tap (m, n) at m u + n v."""
    half = taps.shape[0] // 2
    m, n = torch.meshgrid(*[torch.arange(-half, half + 1)] * 2, indexing="ij")
    rows, columns = m * u[0] + n * v[0], m * u[1] + n * v[1]
    low, right = int(rows.max()), int(columns.max())
    dense = taps.new_zeros(2 * low + 1, 2 * right + 1)
    dense[rows + low, columns + right] = taps
    return dense[None, None]


def _convolve(images: Tensor, taps: Tensor, step: Pair = (1, 1), start: Pair = (0, 0)) -> Tensor:
    """Circular convolution of (P, 1, H, W), sampled at start + step * n; taps may exceed the image.

    Each row of the taps gives a channel, and the channels are summed a row apart, `ROWS` of them at a time:
    a matrix product with as many columns, and partial sums that keep thousands of float32 products
    accurate to 1e-6 (one sum does not).
    """
    height, width = taps.shape[2:]
    rows, columns = images.shape[2:]
    right = torch.arange(columns - step[1] + width, device=images.device) + (start[1] - width // 2)
    images = images.index_select(3, _wrap(right, columns))
    first = torch.arange(0, rows, step[0], device=images.device) + (start[0] - height // 2)
    total = images.new_zeros(())
    for top in range(0, height, ROWS):
        own = taps[0, 0, top : top + ROWS, None, None].to(images)
        channels = F.conv2d(images, own, stride=(1, step[1])).flatten(1, 2)
        shift = torch.arange(own.shape[0], device=images.device)[:, None]
        down = _wrap(first + top + shift, rows) + rows * shift
        total = total + channels.index_select(1, down.flatten()).unflatten(1, down.shape).sum(1)
    return total[:, None]


def _wrap(indices: Tensor, side: int) -> Tensor:
    # By a tensor: converters to ONNX have no remainder by a size that is not fixed.
    return indices.remainder(indices.new_full((), side))


def _spread(bands: Tensor, step: Pair) -> Tensor:
    """Put the samples at step * n, zeros between."""
    rows, columns = step
    return (
        F.pad(bands[..., :, None, :, None], (0, columns - 1, 0, 0, 0, rows - 1)).flatten(-2).flatten(-3, -2)
    )


def _scatter(bands: Tensor, taps: Tensor, step: Pair, start: Pair) -> Tensor:
    """The images whose samples at start + step * n are `bands`, zero elsewhere, convolved with `taps`."""
    return _convolve(_spread(bands, step), taps, (1, 1), (-start[0], -start[1]))


def analyse(planes: Tensor, levels: Sequence[int], filters: SpatialFilters) -> list[Tensor]:
    """Bands (P, h, w) of planes (P, H, W): lowpass, then all bands, coarse to fine."""
    image = planes[:, None]
    bands: list[Tensor] = []
    for depth in reversed(levels):
        if depth == 0:
            starts = ((0, 0), (-1, 0), (0, -1), (-1, -1))
            outputs = [
                _convolve(image, t, (2, 2), s) for t, s in zip(filters.wavelet[0], starts, strict=True)
            ]
            image, own = outputs[0], outputs[1:]
        else:
            h, g = filters.pyramid
            low = _convolve(image, h, (2, 2))
            own = _directional(image - _scatter(low, g, (2, 2), (0, 0)), depth, filters)
            image = low
        bands = own + bands
    return [band[:, 0] for band in [image, *bands]]


def synthesise(bands: Sequence[Tensor], levels: Sequence[int], filters: SpatialFilters) -> Tensor:
    """Planes (P, H, W) of bands as `analyse` returns them."""
    image, first = bands[0][:, None], 1
    for depth in levels:
        last = first + band_count(depth)
        own = [band[:, None] for band in bands[first:last]]
        if depth == 0:
            starts = ((0, 0), (-1, 0), (0, -1), (-1, -1))
            parts = zip([image, *own], filters.wavelet[1], starts, strict=True)
            image = torch.stack([_scatter(band, t, (2, 2), s) for band, t, s in parts]).sum(0)
        else:
            h, g = filters.pyramid
            detail = _assemble(own, depth, filters)
            image = detail + _scatter(image - _convolve(detail, h, (2, 2)), g, (2, 2), (0, 0))
        first = last
    return image[:, 0]


def _sampling(depth: int, parent: int, child: int) -> tuple[Pair, Pair]:
    """Step and start of a child (depth >= 2) on its parent's own array."""
    if depth == 2:
        return (2, 2), tree.offset(2, 2 * parent + child)
    row, column = tree.lattice(depth - 1, parent)
    down, right = tree.stagger(depth, parent) if child else (0, 0)
    return ((2, 1) if parent < 2 ** (depth - 2) else (1, 2)), (down // row, right // column)


def _fan(filters: SpatialFilters, depth: int, parent: int) -> tuple[Tensor, ...]:
    return filters.fans[depth, 0 if depth == 2 else parent]


def _directional(detail: Tensor, depth: int, filters: SpatialFilters) -> list[Tensor]:
    nodes = [_convolve(detail, taps) for taps in filters.fans[1, 0][:2]]
    if depth == 1:
        return [_to_bricks(nodes[0]), _to_bricks(nodes[1].roll(-1, 2).mT).mT.roll(0, 2)]
    for d in range(2, depth + 1):
        nodes = [
            _convolve(node, _fan(filters, d, parent)[child], *_sampling(d, parent, child))
            for parent, node in enumerate(nodes)
            for child in (0, 1)
        ]
    return [nodes[n] for n in tree.band_order(depth)]


def _merge(nodes: Sequence[Tensor], depth: int, parent: int, filters: SpatialFilters) -> Tensor:
    """A parent's own array from its two children."""
    taps = _fan(filters, depth, parent)[2:]
    zero, one = (
        _scatter(nodes[2 * parent + child], taps[child], *_sampling(depth, parent, child)) for child in (0, 1)
    )
    return zero + one


def _assemble(bands: Sequence[Tensor], depth: int, filters: SpatialFilters) -> Tensor:
    if depth == 1:
        nodes = [_from_bricks(bands[0]), _from_bricks(bands[1].mT).mT.roll(1, 2)]
    else:
        nodes = [bands[n] for n in tree.band_order(depth)]
        for d in range(depth, 1, -1):
            nodes = [_merge(nodes, d, parent, filters) for parent in range(len(nodes) // 2)]
    wide, tall = (_convolve(node, taps) for node, taps in zip(nodes, filters.fans[1, 0][2:], strict=True))
    return wide + tall


def _to_bricks(node: Tensor) -> Tensor:
    """Keep (2 i + (j mod 2), j) of (P, 1, H, W): the quincunx lattice as (P, 1, H/2, W)."""
    return torch.stack([node[..., 0::2, 0::2], node[..., 1::2, 1::2]], -1).flatten(-2)


def _from_bricks(band: Tensor) -> Tensor:
    """The mirror of `_to_bricks`, zeros elsewhere."""
    even, odd = _spread(band[..., 0::2], (2, 2)), _spread(band[..., 1::2], (2, 2))
    return even + odd.roll((1, 1), (2, 3))
