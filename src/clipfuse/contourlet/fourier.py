"""Analysis and synthesis in the frequency domain, as two operators with exact adjoints.

Planes travel in pairs, one as real, one as imaginary part: all filters have real impulse responses, so
no step mixes the two and the last inverse FFTs return them apart; a last odd plane travels alone. A
chunk of pairs small enough for the cache goes through all levels before the next one starts. The
backward of each operator is the other one with the adjoint matrices, so that gradients of any order exist.
"""

from collections.abc import Iterator, Sequence

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
    forward = kind.removesuffix("_adjoint")
    if forward != kind:
        gain = 2.0 if forward == "analysis" else 0.5
        own = CACHE.get((levels, bank, (rows, columns), forward, dtype, device))
        return tuple(level.adjoint(gain) for level in own)
    return tuple(
        level_spectra(depth, bank, (rows >> place, columns >> place), kind == "synthesis", dtype, device)
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


def _chunks(planes: Tensor, pixels: int) -> Iterator[slice]:
    """Slices of whole pairs; an odd last plane comes alone."""
    limit = CHUNK_VALUES if planes.device.type == "cpu" else 64 * CHUNK_VALUES
    paired, step = len(planes) // 2 * 2, 2 * max(1, limit // pixels)
    yield from (slice(start, min(start + step, paired)) for start in range(0, paired, step))
    if paired < len(planes):
        yield slice(paired, len(planes))


def _transform(images: Sequence[Tensor]) -> Tensor:
    """Equal images, (2B, h, w) each or (1, h, w) -> their spectra (images, B or 1, h, w)."""
    count, height, width = images[0].shape
    if count == 1:
        return torch.fft.fft2(torch.stack(list(images)))
    pairs = images[0].new_empty(len(images), count // 2, height, width, 2)
    for pair, image in zip(pairs.unbind(), images, strict=True):
        pair.copy_(image.view(-1, 2, height, width).movedim(1, -1))
    return torch.fft.fft2(torch.view_as_complex(pairs))


def _restore(spectra: Tensor, images: Sequence[Tensor]) -> None:
    """The mirror of `_transform`, into `images`."""
    values = torch.view_as_real(torch.fft.ifft2(spectra)).movedim(-1, 2)
    if len(images[0]) == 1:
        values = values[:, :, :1]
    for image, own in zip(images, values.unbind(), strict=True):
        image.view(own.shape).copy_(own)


def _aliases(array: Tensor, dim: int) -> list[Tensor]:
    """The four parts of (..., 2, H/2, 2, W/2) whose frequencies decimation folds; the first 2 is `dim`."""
    return [alias for rows in array.unbind(dim) for alias in rows.unbind(dim + 1)]


def _fold_first(spectrum: Tensor, matrix: Tensor) -> Tensor:
    """Stage 1: (B, H, W) complex -> (outputs, B, H/2, W/2) complex."""
    real = not matrix.is_complex()
    half = torch.view_as_real(spectrum).flatten(-2) if real else spectrum
    parts = zip(
        _aliases(matrix.unsqueeze(1), 2),
        _aliases(half.unflatten(-1, (2, -1)).unflatten(1, (2, -1)), 1),
        strict=True,
    )
    weights, values = next(parts)
    result = weights * values
    for weights, values in parts:
        result.addcmul_(weights, values)
    return torch.view_as_complex(result.unflatten(-1, (-1, 2))) if real else result


def _unfold_first(outputs: Sequence[Tensor], matrix: Tensor) -> Tensor:
    """The mirror of `_fold_first`: (B, H/2, W/2) complex each -> (B, H, W) complex."""
    real = not matrix.is_complex()
    result = None
    for output, weights in zip(outputs, matrix.unbind(), strict=True):
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
    bands = [planes.new_empty(count, *shape) for shape in band_shapes(levels, (rows, columns))]
    for chunk in _chunks(planes, rows * columns):
        own = [band[chunk] for band in bands]
        spectrum = _transform([planes[chunk]])[0]
        last = len(own)
        for level in spectra:
            outputs = _fold_first(spectrum, level.first)
            first = last - band_count(level.depth)
            _restore_bands(outputs[1:], level, own[first:last])
            spectrum, last = outputs[0], first
        _restore(spectrum[None], own[:1])
    return bands


def _restore_bands(nodes: Tensor, level: LevelSpectra, bands: Sequence[Tensor]) -> None:
    """Write the bands of a level, from the directional outputs of stage 1."""
    if level.depth < 3:
        _restore(nodes, _sublattices(bands) if level.depth == 1 else bands)
        return
    wide, tall = nodes[:2], nodes[2:]
    for matrix_wide, matrix_tall in zip(level.wide, level.tall, strict=True):
        wide, tall = _fold_split(wide, matrix_wide, -2), _fold_split(tall, matrix_tall, -1)
    half = len(bands) // 2
    _restore(wide, bands[:half])
    _restore(tall, bands[: half - 1 : -1])


def _sublattices(bands: Sequence[Tensor]) -> list[Tensor]:
    """Views of the two bands of depth 1 as four rectangular lattices."""
    wide, tall = bands
    return [wide[..., 0::2], wide[..., 1::2], tall[..., 0::2, :], tall[..., 1::2, :]]


def _synthesise(bands: Sequence[Tensor], levels: Sequence[int], *names: str) -> Tensor:
    rows, columns = _whole(levels, (bands[0].shape[1], bands[0].shape[2]))
    spectra = _spectra(bands[0], (rows, columns), levels, *names)
    planes = bands[0].new_empty(len(bands[0]), rows, columns)
    for chunk in _chunks(planes, rows * columns):
        own = [band[chunk] for band in bands]
        spectrum = _transform(own[:1])[0]
        first = 1
        for level in reversed(spectra):
            last = first + band_count(level.depth)
            spectrum = _unfold_first([spectrum, *_nodes_of(own[first:last], level)], level.first)
            first = last
        _restore(spectrum[None], [planes[chunk]])
    return planes


def _nodes_of(bands: Sequence[Tensor], level: LevelSpectra) -> Sequence[Tensor]:
    """The mirror of `_restore_bands`."""
    if level.depth < 3:
        return _transform(_sublattices(bands) if level.depth == 1 else bands).unbind()
    half = len(bands) // 2
    wide, tall = _transform(bands[:half]), _transform(bands[: half - 1 : -1])
    for matrix_wide, matrix_tall in zip(reversed(level.wide), reversed(level.tall), strict=True):
        wide, tall = _unfold_split(wide, matrix_wide, -2), _unfold_split(tall, matrix_tall, -1)
    return [*wide.unbind(), *tall.unbind()]


def _spectra(
    like: Tensor, size: tuple[int, int], levels: Sequence[int], *names: str
) -> tuple[LevelSpectra, ...]:
    pyramid, directional, kind = names
    bank = FilterBank(pyramid, directional.removesuffix(PUBLISHED), directional.endswith(PUBLISHED))
    return CACHE.get((tuple(levels), bank, size, kind, like.dtype, like.device))


def operator_names(bank: FilterBank) -> tuple[str, str]:
    """Return a bank as arguments of the operators: its two names, with a suffix for the defective fans."""
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
