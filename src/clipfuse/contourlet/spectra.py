"""Transfer matrices of the contourlet transform on a torus of one size, frequency by frequency.

On an H x W torus, decimation folds frequencies that differ by multiples of the lattice's dual onto
one another, so each stage of the transform is a small matrix per frequency: outputs by aliases.

Stage 1 of a level takes the four aliases of decimation by (2, 2) to five outputs: the lowpass C and
the four nodes of depth 2 of the directional tree. It has the Laplacian pyramid in it: with
C = fold(h X) and D = X - g C, a node is fold(E D) = fold(E X) - fold(E g) C, again a matrix applied to
X. Further stages take a node's two aliases to its two children. The phases of the sampling offsets
are left to the next stage, where they are complex anyway; stage 1 stays real for trees of depth >= 3.

Synthesis mirrors it with the dual filters and the dual frame operator of the pyramid, D + g (C -
fold(h D)): Do and Vetterli, "Framing pyramids", IEEE TSP 51(9), 2003, equation (17).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from clipfuse.contourlet import tree
from clipfuse.contourlet.filters import FilterBank, cosine_polynomial

KINDS = ("analysis", "synthesis", "analysis_adjoint", "synthesis_adjoint")


@dataclass(frozen=True)
class LevelSpectra:
    """The matrices of one level of the pyramid.

    Attributes:
        depth: depth of its directional tree; 0 is a separable wavelet level.
        first: stage 1, (outputs, 2, H/2, 2, W/2) complex, or real with W/2 doubled (each value twice in
            a row, to multiply real and imaginary parts); the aliases are axes 1 and 3.
        wide: later stages of the first half, (parents, 2 children, 2 aliases, h, w) complex.
        tall: later stages of the second half, (parents, 2 children, h, 2 aliases, w) complex.
    """

    depth: int
    first: Tensor
    wide: tuple[Tensor, ...]
    tall: tuple[Tensor, ...]

    def bytes(self) -> int:
        """Memory of all matrices."""
        return sum(m.numel() * m.element_size() for m in (self.first, *self.wide, *self.tall))


def level_spectra(
    depth: int, bank: FilterBank, size: tuple[int, int], kind: str, dtype: torch.dtype, device: torch.device
) -> LevelSpectra:
    """Build the matrices of one level for images of `size` in `dtype` (real), computed in float64."""
    dual = kind.startswith("synthesis")
    rows, columns = _angles(size)
    if depth == 0:
        first = _wavelet(bank, rows, columns, dual)
    else:
        first = _pyramid(bank, rows, columns, _nodes(depth, bank, rows, columns, dual), dual)
    first = first.unflatten(-1, (2, -1)).unflatten(1, (2, -1))
    later = [_split(d, bank, rows, columns, dual) for d in range(3, depth + 1)]
    # An adjoint has the conjugate matrix, times the decimation (or its inverse) of each stage.
    gain = {"analysis_adjoint": 2.0, "synthesis_adjoint": 0.5}.get(kind)
    if gain is not None:
        first = gain * gain * first.conj()
        later = [(gain * wide.conj(), gain * tall.conj()) for wide, tall in later]
    complex_dtype = torch.complex64 if dtype == torch.float32 else torch.complex128
    if first.is_complex():
        first = first.resolve_conj().to(device, complex_dtype)
    else:
        first = first.to(device, dtype).repeat_interleave(2, dim=-1)
    later = [
        (w.resolve_conj().to(device, complex_dtype), t.resolve_conj().to(device, complex_dtype))
        for w, t in later
    ]
    return LevelSpectra(depth, first, tuple(w for w, _ in later), tuple(t for _, t in later))


def _angles(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    rows, columns = (2 * math.pi / side * torch.arange(side, dtype=torch.float64) for side in size)
    return rows[:, None], columns[None]


def _fold(spectrum: Tensor) -> Tensor:
    """Mean over the four aliases, repeated over them: what decimation and zero filling by (2, 2) keep."""
    parts = spectrum.unflatten(-1, (2, -1)).unflatten(-3, (2, -1))
    return parts.mean((-4, -2), keepdim=True).expand_as(parts).flatten(-2).flatten(-3, -2)


def _wavelet(bank: FilterBank, rows: Tensor, columns: Tensor, dual: bool) -> Tensor:
    """LL, LH (low along rows, high along columns), HL, HH; high bands start one sample early, negated."""
    h, g = bank.pyramid_pair
    low, high = (g, h) if dual else (h, g)
    sign = 1 if dual else -1
    bands = []
    for angle in (rows, columns):
        cosine = torch.cos(angle)
        phase = torch.polar(torch.ones_like(angle), sign * angle)
        bands.append((cosine_polynomial(low, cosine) + 0j, -cosine_polynomial(high, -cosine) * phase))
    scale = 1.0 if dual else 0.25
    return scale * torch.stack([bands[0][v] * bands[1][u] for v, u in ((0, 0), (1, 0), (0, 1), (1, 1))])


def _nodes(depth: int, bank: FilterBank, rows: Tensor, columns: Tensor, dual: bool) -> Tensor:
    """Responses of the first stage's four directional outputs with the phases of their aliases."""
    size = rows.numel(), columns.numel()
    halves, quarters = (bank.fan_pair(size, *tree.combination(d, 0), dual) for d in (1, 2))
    if depth == 1:
        # The quincunx lattice is two lattices of steps (2, 2), (1, 1) apart.
        nodes = [(halves[a], (a + b, b)) for a in (0, 1) for b in (0, 1)]
    else:
        nodes = [
            (halves[n // 2] * quarters[n % 2], tree.offset(2, n))
            for n in (tree.band_order(2) if depth == 2 else range(4))
        ]
    if depth <= 2:
        sign = -1 if dual else 1
        return torch.stack([e * _phase(rows, columns, sign * a, sign * b) for e, (a, b) in nodes])
    height, width = rows.numel() // 2, columns.numel() // 2
    down = torch.arange(2 * height)[:, None] // height
    right = torch.arange(2 * width)[None] // width
    return torch.stack([e * (1.0 - 2.0 * ((a * down + b * right) % 2)) for e, (a, b) in nodes])


def _phase(rows: Tensor, columns: Tensor, down: int, right: int) -> Tensor:
    angle = down * rows + right * columns
    return torch.polar(torch.ones_like(angle), angle)


def _pyramid(bank: FilterBank, rows: Tensor, columns: Tensor, nodes: Tensor, dual: bool) -> Tensor:
    """Put the Laplacian pyramid in front of (or behind) the directional outputs."""
    h, g = (
        cosine_polynomial(taps, torch.cos(rows)) * cosine_polynomial(taps, torch.cos(columns))
        for taps in bank.pyramid_pair
    )
    lowpass = g if dual else 0.25 * h
    corrected = nodes - g * _fold(h * nodes) if dual else 0.25 * (nodes - _fold(nodes * g) * h)
    return torch.cat([lowpass.to(corrected.dtype)[None], corrected])


def _split(depth: int, bank: FilterBank, rows: Tensor, columns: Tensor, dual: bool) -> tuple[Tensor, Tensor]:
    """Matrices that split the nodes of depth - 1: (wide half, tall half)."""
    nodes = 2 ** (depth - 2)
    sign, scale = (-1, 1.0) if dual else (1, 0.5)
    halves = []
    for second in (0, 1):
        # Frequencies of the parent's torus are the first of the image's.
        row, column = tree.lattice(depth - 1, second * nodes)
        own_size = rows.numel() // row, columns.numel() // column
        own_rows, own_columns = rows[: own_size[0]], columns[:, : own_size[1]]
        parents = []
        for parent in range(second * nodes, (second + 1) * nodes):
            fans = bank.fan_pair(own_size, *tree.own_combination(depth, parent), dual)
            children = []
            for child in (0, 1):
                # Phases before depth 3 were left out of stage 1; later stages bring their own.
                base = tree.offset(2, parent) if depth == 3 else (0, 0)
                down, right = tree.stagger(depth, parent) if child else (0, 0)
                phase = _phase(own_rows, own_columns, sign * (base[0] + down), sign * (base[1] + right))
                children.append(scale * fans[child] * phase)
            parents.append(torch.stack(children))
        halves.append(torch.stack(parents))
    wide, tall = halves
    return wide.unflatten(2, (2, -1)), tall.unflatten(3, (2, -1))
