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

All is computed in float64, a few rows at a time: intermediate arrays of full size would take longer to
allocate than to compute.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from clipfuse.contourlet import tree
from clipfuse.contourlet.filters import FilterBank, cosine_polynomial

BLOCK_VALUES = 2**16
"""Frequencies that are worked on at a time."""


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

    def adjoint(self, gain: float) -> "LevelSpectra":
        """The conjugate matrices, times the decimation (or its inverse) of each stage, `gain`."""
        first = (gain * gain * self.first.conj()).resolve_conj()
        wide, tall = (
            tuple((gain * matrix.conj()).resolve_conj() for matrix in half) for half in (self.wide, self.tall)
        )
        return LevelSpectra(self.depth, first, wide, tall)


def level_spectra(
    depth: int, bank: FilterBank, size: tuple[int, int], dual: bool, dtype: torch.dtype, device: torch.device
) -> LevelSpectra:
    """Build the matrices of one level, of analysis or synthesis (`dual`), for real images of `dtype`."""
    height, width = size
    complex_dtype = torch.complex64 if dtype == torch.float32 else torch.complex128
    first = torch.empty(5 if depth else 4, 2, height // 2, 2, width // 2, dtype=complex_dtype)
    for rows, values in _first_stage(depth, bank, size, dual):
        first[:, :, rows] = values if depth < 3 else torch.complex(values, values)
    if depth >= 3:
        first = torch.view_as_real(first).flatten(-2)
    wide, tall = (
        [_split(d, half, bank, size, dual, complex_dtype).to(device) for d in range(3, depth + 1)]
        for half in (0, 1)
    )
    return LevelSpectra(
        depth,
        first.to(device),
        tuple(matrix.unflatten(2, (2, -1)) for matrix in wide),
        tuple(matrix.unflatten(3, (2, -1)) for matrix in tall),
    )


def _angles(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    rows, columns = (2 * math.pi / side * torch.arange(side, dtype=torch.float64) for side in size)
    return rows, columns


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, BLOCK_VALUES // columns)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _phase(rows: Tensor, columns: Tensor, shift: tuple[int, int]) -> Tensor:
    """exp(i w.shift) at frequencies w = (rows, columns), which broadcast, for a shift in pixels."""
    down, right = (
        torch.polar(torch.ones_like(angle), pixels * angle)
        for pixels, angle in zip(shift, (rows, columns), strict=True)
    )
    return down * right


def _first_stage(
    depth: int, bank: FilterBank, size: tuple[int, int], dual: bool
) -> Iterator[tuple[slice, Tensor]]:
    """Stage 1, (outputs, 2, rows, 2, W/2), for slices of the H/2 rows."""
    angles = _angles(size)
    rows, columns = angles[0].view(2, -1, 1, 1), angles[1].view(2, -1)
    kernels = [bank.kernel_factors(size, *tree.combination(d, 0)) for d in (1, 2)[:depth]]
    for block in _blocks(size[0] // 2, 2 * size[1]):
        own = rows[:, block]
        if depth == 0:
            yield block, _wavelet(bank, own, columns, dual)
            continue
        fans = []
        for left, right in kernels:
            kernel = left.unflatten(0, (2, -1))[:, block] @ right
            fans.append(bank.fan_pair(kernel.unflatten(-1, (2, -1)), dual))
        yield block, _pyramid(bank, own, columns, _nodes(depth, fans, own, columns, dual), dual)


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


def _nodes(
    depth: int, fans: list[tuple[Tensor, Tensor]], rows: Tensor, columns: Tensor, dual: bool
) -> Tensor:
    """Responses of the first stage's four directional outputs with the phases of their aliases."""
    if depth == 1:
        # The quincunx lattice is two lattices of steps (2, 2), (1, 1) apart.
        nodes = [(fans[0][a], (a + b, b)) for a in (0, 1) for b in (0, 1)]
    else:
        order = tree.band_order(2) if depth == 2 else range(4)
        nodes = [(fans[0][n // 2] * fans[1][n % 2], tree.offset(2, n)) for n in order]
    sign = -1 if dual else 1
    if depth >= 3:  # the aliases' part of the phases alone, which are signs
        aliases = math.pi * torch.arange(2, dtype=torch.float64)
        rows, columns = aliases.view(2, 1, 1, 1), aliases.view(2, 1)
    phases = [_phase(rows, columns, (sign * a, sign * b)) for _, (a, b) in nodes]
    if depth >= 3:
        phases = [phase.real for phase in phases]
    return torch.stack([node * phase for (node, _), phase in zip(nodes, phases, strict=True)])


def _pyramid(bank: FilterBank, rows: Tensor, columns: Tensor, nodes: Tensor, dual: bool) -> Tensor:
    """Put the Laplacian pyramid in front of (or behind) the directional outputs."""
    h, g = (
        cosine_polynomial(taps, torch.cos(rows)) * cosine_polynomial(taps, torch.cos(columns))
        for taps in bank.pyramid_pair
    )
    inner, outer, scale = (h, g, 1.0) if dual else (g, h, 0.25)
    first, second = (nodes * inner).unbind(1)
    # Decimation and zero filling by (2, 2) keep the mean over the four aliases.
    kept = (first + second).sum(-2, keepdim=True).unsqueeze(1)
    corrected = torch.addcmul(nodes, kept, outer.to(nodes.dtype), value=-0.25)
    return scale * torch.cat([outer.to(nodes.dtype)[None], corrected])


def _split(
    depth: int, half: int, bank: FilterBank, size: tuple[int, int], dual: bool, dtype: torch.dtype
) -> Tensor:
    """Matrices (parents, 2 children, h, w) that split the nodes of depth - 1 of one half, on their torus."""
    count = 2 ** (depth - 2)
    sign, scale = (-1, 1.0) if dual else (1, 0.5)
    # Frequencies of the parents' torus are the first of the image's.
    row, column = tree.lattice(depth - 1, half * count)
    height, width = size[0] // row, size[1] // column
    angles = _angles(size)
    rows, columns = angles[0][:height, None], angles[1][:width]
    result = torch.empty(count, 2, height, width, dtype=dtype)
    for index, matrix in enumerate(result):
        parent = half * count + index
        left, right = bank.kernel_factors((height, width), *tree.own_combination(depth, parent))
        # Phases before depth 3 were left out of stage 1; later stages bring their own.
        start = tree.offset(2, parent) if depth == 3 else (0, 0)
        further = tree.stagger(depth, parent)
        shifts = start, (start[0] + further[0], start[1] + further[1])
        for block in _blocks(height, width):
            fans = bank.fan_pair(left[block] @ right, dual)
            for child, fan, (down, across) in zip(matrix, fans, shifts, strict=True):
                phase = _phase(rows[block], columns, (sign * down, sign * across))
                child[block] = phase.mul_(fan.mul_(scale))
    return result
