"""Analysis and synthesis in the frequency domain, as two operators with exact adjoints.

Planes travel in pairs, one as real, one as imaginary part: all filters have real impulse responses, so
no step mixes the two and the last inverse FFTs return them apart. A chunk of pairs small enough for the
cache goes through all levels before the next one starts. The backward of each operator is the other one
with the adjoint matrices, so that gradients of any order exist.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from clipfuse.contourlet import tree
from clipfuse.contourlet.cache import Key, SpectraCache
from clipfuse.contourlet.coefficients import band_count
from clipfuse.contourlet.filters import FilterBank
from clipfuse.contourlet.operators import register_pair
from clipfuse.contourlet.spectra import LevelSpectra, level_spectra

PUBLISHED = "/published"
CHUNK_VALUES = 2**18
"""Complex values of a chunk on a CPU; a 224 x 224 pair has 50176."""


def _build(key: Key) -> tuple[LevelSpectra, ...]:
    """The matrices of all levels, fine to coarse."""
    levels, bank, (rows, columns), kind, dtype, device = key
    return tuple(
        level_spectra(depth, bank, (rows >> place, columns >> place), kind, dtype, device)
        for place, depth in enumerate(reversed(levels))
    )


CACHE: SpectraCache[tuple[LevelSpectra, ...]] = SpectraCache(
    _build, lambda entry: sum(s.bytes() for s in entry)
)


def band_shapes(levels: Sequence[int], size: tuple[int, int]) -> list[tuple[int, int]]:
    """Sizes of the lowpass and of all bands, coarse to fine, of an image whose `size` is divisible."""
    count = len(levels)
    shapes = [(size[0] >> count, size[1] >> count)]
    for index, depth in enumerate(levels):
        own = size[0] >> (count - 1 - index), size[1] >> (count - 1 - index)
        if depth == 0:
            shapes += [(own[0] // 2, own[1] // 2)] * 3
        else:
            shapes += [tree.band_size(depth, band, own) for band in range(2**depth)]
    return shapes


def _chunk(pairs: int, image: Tensor, pixels: int) -> int:
    limit = CHUNK_VALUES if image.device.type == "cpu" else 64 * CHUNK_VALUES
    return max(1, min(pairs, limit // pixels))


def _even(planes: Tensor) -> Tensor:
    """Add a plane of zeros where their number is odd."""
    return torch.cat([planes, torch.zeros_like(planes[:1])]) if len(planes) % 2 else planes


def _fold_first(spectrum: Tensor, matrix: Tensor) -> Tensor:
    """Stage 1: (B, H, W) complex -> (outputs, B, H/2, W/2) complex."""
    half = torch.view_as_real(spectrum).flatten(-2) if not matrix.is_complex() else spectrum
    parts = half.unflatten(-1, (2, -1)).unflatten(1, (2, -1))
    result = matrix[:, None, 0, :, 0] * parts[None, :, 0, :, 0]
    for down, right in ((0, 1), (1, 0), (1, 1)):
        result.addcmul_(matrix[:, None, down, :, right], parts[None, :, down, :, right])
    return result if result.is_complex() else torch.view_as_complex(result.unflatten(-1, (-1, 2)))


def _unfold_first(outputs: Sequence[Tensor], matrix: Tensor) -> Tensor:
    """The mirror of `_fold_first`: (B, H/2, W/2) complex each -> (B, H, W) complex."""
    real = not matrix.is_complex()
    result = None
    for output, weights in zip(outputs, matrix, strict=True):
        values = torch.view_as_real(output).flatten(-2) if real else output
        values = values[:, None, :, None]
        result = weights * values if result is None else result.addcmul_(weights, values)
    assert result is not None
    result = result.flatten(-2).flatten(1, 2)
    return torch.view_as_complex(result.unflatten(-1, (-1, 2))) if real else result


def _fold_split(nodes: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Later stages: (parents, B, h, w) -> (2 parents, B, h', w'), folding rows (-2) or columns (-1)."""
    first, second = nodes[:, None].chunk(2, dim=axis)
    near, far = (m[:, :, None] for m in matrix.unbind(2 if axis == -2 else 3))
    return (near * first).addcmul_(far, second).flatten(0, 1)


def _unfold_split(children: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """The mirror of `_fold_split`."""
    zero, one = children.unflatten(0, (-1, 2)).unsqueeze(axis - 1).unbind(1)
    result = (matrix[:, None, 0] * zero).addcmul_(matrix[:, None, 1], one)
    return result.flatten(axis - 1, axis)


def _analyse(planes: Tensor, levels: Sequence[int], *names: str) -> list[Tensor]:
    count, rows, columns = planes.shape
    spectra = _spectra(planes, (rows, columns), levels, *names)
    planes = _even(planes)
    pairs = len(planes) // 2
    shapes = band_shapes(levels, (rows, columns))
    bands = [planes.new_empty(2 * pairs, *shape) for shape in shapes]
    step = _chunk(pairs, planes, rows * columns)
    for start in range(0, pairs, step):
        stop = min(start + step, pairs)
        chunk = planes[2 * start : 2 * stop]
        spectrum = torch.fft.fft2(torch.complex(chunk[0::2], chunk[1::2]))
        last = len(bands)
        for level in spectra:
            outputs = _fold_first(spectrum, level.first)
            spectrum, nodes = outputs[0], outputs[1:]
            first = last - band_count(level.depth)
            for band, values in zip(bands[first:last], _bands_of(nodes, level), strict=True):
                _store(band[2 * start : 2 * stop], values)
            last = first
        _store(bands[0][2 * start : 2 * stop], torch.fft.ifft2(spectrum))
    return [band[:count] for band in bands]


def _bands_of(nodes: Tensor, level: LevelSpectra) -> list[Tensor]:
    """Bands of a level, pairs as complex images, in their order, from the outputs of stage 1."""
    if level.depth == 1:
        zero, one, two, three = torch.fft.ifft2(nodes).unbind()
        return [torch.stack([zero, one], -1).flatten(-2), torch.stack([two, three], -2).flatten(-3, -2)]
    if level.depth in (0, 2):
        return list(torch.fft.ifft2(nodes).unbind())
    wide, tall = nodes[:2], nodes[2:]
    for matrix_wide, matrix_tall in zip(level.wide, level.tall, strict=True):
        wide, tall = _fold_split(wide, matrix_wide, -2), _fold_split(tall, matrix_tall, -1)
    return [*torch.fft.ifft2(wide).unbind(), *reversed(torch.fft.ifft2(tall).unbind())]


def _store(band: Tensor, values: Tensor) -> None:
    band.unflatten(0, (-1, 2)).copy_(torch.view_as_real(values).movedim(-1, 1))


def _synthesise(bands: Sequence[Tensor], levels: Sequence[int], *names: str) -> Tensor:
    count = len(bands[0])
    rows, columns = _whole(levels, (bands[0].shape[1], bands[0].shape[2]))
    spectra = _spectra(bands[0], (rows, columns), levels, *names)
    bands = [_even(band) for band in bands]
    pairs = len(bands[0]) // 2
    planes = bands[0].new_empty(2 * pairs, rows, columns)
    step = _chunk(pairs, planes, rows * columns)
    for start in range(0, pairs, step):
        stop = min(start + step, pairs)
        chunks = [band[2 * start : 2 * stop] for band in bands]
        spectrum = _spectra_of(chunks[:1])[0]
        first = 1
        for level in reversed(spectra):
            last = first + band_count(level.depth)
            nodes = _nodes_of(chunks[first:last], level)
            spectrum = _unfold_first([spectrum, *nodes], level.first)
            first = last
        _store(planes[2 * start : 2 * stop], torch.fft.ifft2(spectrum))
    return planes[:count]


def _nodes_of(bands: Sequence[Tensor], level: LevelSpectra) -> Sequence[Tensor]:
    """The mirror of `_bands_of`, from pairs of planes."""
    if level.depth == 1:
        wide, tall = bands
        return _spectra_of(
            [wide[..., 0::2], wide[..., 1::2], tall[..., 0::2, :], tall[..., 1::2, :]]
        ).unbind()
    if level.depth in (0, 2):
        return _spectra_of(bands).unbind()
    half = len(bands) // 2
    wide, tall = _spectra_of(bands[:half]), _spectra_of(bands[: half - 1 : -1])
    for matrix_wide, matrix_tall in zip(reversed(level.wide), reversed(level.tall), strict=True):
        wide, tall = _unfold_split(wide, matrix_wide, -2), _unfold_split(tall, matrix_tall, -1)
    return [*wide.unbind(), *tall.unbind()]


def _spectra_of(bands: Sequence[Tensor]) -> Tensor:
    """Pairs of equal bands (2B, h, w) each -> their spectra (bands, B, h, w)."""
    pairs = bands[0].new_empty(len(bands), len(bands[0]) // 2, *bands[0].shape[1:], 2)
    for pair, band in zip(pairs, bands, strict=True):
        pair.copy_(band.unflatten(0, (-1, 2)).movedim(1, -1))
    return torch.fft.fft2(torch.view_as_complex(pairs))


def _spectra(
    like: Tensor, size: tuple[int, int], levels: Sequence[int], *names: str
) -> tuple[LevelSpectra, ...]:
    pyramid, directional, kind = names
    bank = FilterBank(pyramid, directional.removesuffix(PUBLISHED), directional.endswith(PUBLISHED))
    return CACHE.get((tuple(levels), bank, size, kind, like.dtype, like.device))


def operator_names(bank: FilterBank) -> tuple[str, str]:
    """How the operators are told of a bank: its two names, the defective fans as a suffix."""
    return bank.pyramid, bank.directional + PUBLISHED * bank.published


def _whole(levels: Sequence[int], lowpass: tuple[int, int]) -> tuple[int, int]:
    return lowpass[0] << len(levels), lowpass[1] << len(levels)


ADJOINT = {
    "analysis": "analysis_adjoint",
    "analysis_adjoint": "analysis",
    "synthesis": "synthesis_adjoint",
    "synthesis_adjoint": "synthesis",
}
analysis, synthesis = register_pair("contourlet", _analyse, _synthesise, band_shapes, _whole, ADJOINT)
