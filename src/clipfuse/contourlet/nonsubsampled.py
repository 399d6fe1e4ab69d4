"""The shift-invariant contourlet transform: nothing is decimated, all bands keep the image's size."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clipfuse.contourlet import tree
from clipfuse.contourlet.cache import Key, SpectraCache
from clipfuse.contourlet.coefficients import (
    ContourletCoefficients,
    band_count,
    check_image,
    check_levels,
    computable,
    flatten,
    gather,
)
from clipfuse.contourlet.filters import FilterBank, cosine_polynomial
from clipfuse.contourlet.operators import register_pair


def responses(levels: Sequence[int], bank: FilterBank, size: tuple[int, int], dual: bool) -> Tensor:
    """Responses (bands, H, W/2 + 1) of all bands, lowpass first, coarse to fine, real: zero phase.

    Level j filters at frequencies times 2**j (filters "a trous"). A level's lowpass L = h/2 has unit gain at
    0; its detail is 1 - (g/2) L, and lowpass times g/2 plus detail gives back the level's input. Each split
    of the detail is divided by sqrt(2), so that a fan pair's products, 2 in sum, become 1. All bands of a
    torus of any size, hence no padding.
    """
    rows = 2 * math.pi / size[0] * torch.arange(size[0], dtype=torch.float64)[:, None]
    columns = 2 * math.pi / size[1] * torch.arange(size[1] // 2 + 1, dtype=torch.float64)[None]
    coming = torch.ones(size[0], size[1] // 2 + 1, dtype=torch.float64)
    bands: list[Tensor] = []
    h, g = bank.pyramid_pair
    for place, depth in enumerate(reversed(levels)):
        y, x = torch.cos(rows * 2**place), torch.cos(columns * 2**place)
        first, second = (g, h) if dual else (h, g)
        (low_y, high_y), (low_x, high_x) = (
            (cosine_polynomial(first, c), cosine_polynomial(second, -c)) for c in (y, x)
        )
        lowpass = 0.5 * low_y * low_x
        if depth == 0:
            own = [0.5 * high_y * low_x, 0.5 * low_y * high_x, 0.5 * high_y * high_x]
        else:
            kept = 0.5 * cosine_polynomial(g, y) * cosine_polynomial(g, x) * lowpass
            detail = torch.ones_like(coming) if dual else 1 - kept
            own = [detail * wedge for wedge in _wedges(depth, bank, size, 2**place, dual)]
        bands = [coming * band for band in own] + bands
        coming = coming * lowpass
    return torch.stack([coming, *bands])


def _wedges(depth: int, bank: FilterBank, size: tuple[int, int], spread: int, dual: bool) -> list[Tensor]:
    nodes = [torch.ones(size[0], size[1] // 2 + 1, dtype=torch.float64)]
    for d in range(1, depth + 1):
        children = []
        for parent, node in enumerate(nodes):
            u, v = (tuple(spread * c for c in coefficients) for coefficients in tree.combination(d, parent))
            left, right = bank.kernel_factors(size, (u[0], u[1]), (v[0], v[1]))
            fans = bank.fan_pair(left @ right[:, : node.shape[1]], dual)
            children += [node * fan / math.sqrt(2) for fan in fans]
        nodes = children
    return [nodes[n] for n in tree.band_order(depth)]


def _build(key: Key) -> tuple[Tensor, ...]:
    levels, bank, size, kind, dtype, device = key
    return (responses(levels, bank, size, kind == "synthesis").to(device, dtype),)


CACHE: SpectraCache[tuple[Tensor, ...]] = SpectraCache(
    _build, lambda entry: sum(t.numel() * t.element_size() for t in entry)
)


def _table(like: Tensor, levels: Sequence[int], *names: str) -> Tensor:
    pyramid, directional, kind = names
    size = like.shape[-2], like.shape[-1]
    return CACHE.get((tuple(levels), FilterBank(pyramid, directional), size, kind, like.dtype, like.device))[
        0
    ]


def _analyse(planes: Tensor, levels: Sequence[int], *names: str) -> list[Tensor]:
    spectrum = torch.fft.rfft2(planes)
    table = _table(planes, levels, *names)
    return [torch.fft.irfft2(spectrum * response, s=planes.shape[-2:]) for response in table]


def _synthesise(bands: Sequence[Tensor], levels: Sequence[int], *names: str) -> Tensor:
    table = _table(bands[0], levels, *names)
    spectrum = torch.zeros((), device=table.device)
    for band, response in zip(bands, table, strict=True):
        spectrum = spectrum + torch.fft.rfft2(band) * response
    return torch.fft.irfft2(spectrum, s=bands[0].shape[-2:])


def _shapes(levels: Sequence[int], size: tuple[int, int]) -> list[tuple[int, int]]:
    return [size] * (1 + sum(band_count(depth) for depth in levels))


# Responses are real, so that the adjoint of either operator is the other one with the same responses.
analysis, synthesis = register_pair(
    "nonsubsampled",
    _analyse,
    _synthesise,
    _shapes,
    lambda _, size: size,
    {"analysis": "analysis", "synthesis": "synthesis"},
)


class NonsubsampledContourlet(nn.Module):
    """Contourlet transform without decimation: shift-invariant, all bands (N, C, H, W), exact inverse.

    da Cunha, Zhou and Do, "The nonsubsampled contourlet transform", IEEE TIP 15(10), 2006, with the filters
    and the band order of `ContourletTransform`. Own choices: the pyramid is the "a trous" Laplacian one, its
    inverse lowpass times g plus detail; lowpass filters have unit gain at frequency 0 and splits are
    scaled by 1/sqrt(2), so that bands have the units of the image. Memory is 1 + sum of 2**l planes (3
    for l = 0) per plane. No size needs padding.

    Args:
        levels: depth of the directional tree per level, coarse to fine; 0 is an undecimated wavelet level.
        pyramid_filter: "maxflat" or "9-7".
        directional_filter: "dmaxflat4" to "dmaxflat7".

    Raises:
        ValueError: an argument is not one of the above.
    """

    def __init__(
        self,
        levels: Sequence[int] = (0, 3, 3, 3),
        pyramid_filter: str = "maxflat",
        directional_filter: str = "dmaxflat7",
    ) -> None:
        super().__init__()
        self.levels = check_levels(levels)
        self.bank = FilterBank(pyramid_filter, directional_filter)

    def forward(self, image: Tensor) -> ContourletCoefficients:
        """Analyse (N, C, H, W), each plane by itself; float16 and bfloat16 are computed in float32.

        Raises:
            ValueError: not a floating-point (N, C, H, W), or a side smaller than 2 to the number of levels.
        """
        check_image(image, 2 ** len(self.levels))
        planes = computable(image).flatten(0, 1)
        with torch.autocast(image.device.type, enabled=False):
            bands = analysis(planes, self.levels, self.bank.pyramid, self.bank.directional, "analysis")
        return gather(bands, self.levels, (image.shape[0], image.shape[1]), (image.shape[2], image.shape[3]))

    def inverse(self, coefficients: ContourletCoefficients) -> Tensor:
        """Reconstruct (N, C, H, W); exact for what `forward` returned.

        Raises:
            ValueError: the bands do not fit `levels` and `size`.
        """
        bands = flatten(coefficients, self.levels, _shapes(self.levels, coefficients.size))
        with torch.autocast(bands[0].device.type, enabled=False):
            planes = synthesis(bands, self.levels, self.bank.pyramid, self.bank.directional, "synthesis")
        return planes.unflatten(0, tuple(coefficients.lowpass.shape[:2]))

    def extra_repr(self) -> str:
        """The arguments, for `print`."""
        return f"levels={self.levels}, filters=({self.bank.pyramid}, {self.bank.directional})"
