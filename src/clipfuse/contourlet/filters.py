"""The filters of the contourlet transform, from their construction, in float64.

Pyramid filters are symmetric, biorthogonal 1-D pairs (h for analysis, g for synthesis) used along
rows and columns: p_h(cos w) p_g(cos w) + p_h(-cos w) p_g(-cos w) = 2, both sqrt(2) at w = 0.
Directional filters are 2-D: the McClellan transform puts a diamond kernel T(u, v) for cos w into
the cosine polynomials of the 1-D "maxflat" pair. Since T(u + pi, v + pi) = -T(u, v), the identity
above carries over, and a quincunx-sampled pair of channels reconstructs perfectly.

Sources: Do and Vetterli, "The contourlet transform", IEEE TIP 14(12), 2005, section III (structure);
da Cunha, Zhou and Do, "The nonsubsampled contourlet transform", IEEE TIP 15(10), 2006, section III
(mapping a maximally flat 1-D pair to 2-D); Cohen, Daubechies and Feauveau, CPAM 45, 1992 (9-7).
"""

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from clipfuse.ops.plain import plain_tensors

ROOT2 = math.sqrt(2.0)
PYRAMID_FILTERS = ("maxflat", "9-7")
DIRECTIONAL_FILTERS = ("dmaxflat4", "dmaxflat5", "dmaxflat6", "dmaxflat7")

Taps = tuple[float, ...]
"""Right half of a symmetric filter, its centre first."""


def maxflat_pair() -> tuple[Taps, Taps]:
    """The 5- and 7-tap pair with a double zero at w = pi each.

    With c = cos w and a = 1 - 1/sqrt(2):
        p_h = (1 + c) (1 - a c)
        p_g = (1 + c) (1 - (3 - 2 sqrt(2)) c + (2 - 3/sqrt(2)) c^2)
    Their product has no even power of c but its constant, 1. The taps are the coefficients over
    1, 2 cos w, 2 cos 2w, 2 cos 3w, in closed form.
    """
    h = ((2 + ROOT2) / 4, ROOT2 / 4, (ROOT2 - 2) / 8)
    g = ((2 + ROOT2) / 4, (7 * ROOT2 - 4) / 16, (ROOT2 - 2) / 8, (4 - 3 * ROOT2) / 16)
    return h, g


def nine_seven_pair() -> tuple[Taps, Taps]:
    """The 9- and 7-tap pair of Cohen, Daubechies and Feauveau, four zeros at w = pi each.

    With y = sin^2(w/2), the product of the two is 2 (1 - y)^4 (1 + 4y + 10y^2 + 20y^3), Daubechies'
    half-band polynomial. The cubic has one real root r: its linear factor goes to the 7-tap filter,
    the quadratic to the 9-tap one. Cardano's formula gives r; two Newton steps remove its rounding.
    """
    # t = y + 1/6 turns 20y^3 + 10y^2 + 4y + 1 into 20 (t^3 + p t + q).
    p, q = 7 / 60, 7 / 270
    spread = math.sqrt(q * q / 4 + p**3 / 27)
    root = math.cbrt(-q / 2 + spread) + math.cbrt(-q / 2 - spread) - 1 / 6
    for _ in range(2):
        root -= (((20 * root + 10) * root + 4) * root + 1) / ((60 * root + 20) * root + 4)
    # (20y^3 + 10y^2 + 4y + 1) / (1 - y/r) by synthetic division, lowest power first.
    quadratic = (1.0, 4 + 1 / root, 10 + (4 + 1 / root) / root)
    square = (1.0, -2.0, 1.0)
    return (_taps_of(_product(square, quadratic)), _taps_of(_product(square, (1.0, -1 / root))))


def _product(left: Sequence[float], right: Sequence[float]) -> list[float]:
    result = [0.0] * (len(left) + len(right) - 1)
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            result[i + j] += a * b
    return result


def _taps_of(powers: Sequence[float]) -> Taps:
    """Taps of sqrt(2) sum_n powers[n] y^n; y = (2 - z - 1/z)/4 is the filter (-1, 2, -1)/4."""
    size = len(powers) - 1
    total = [0.0] * (2 * size + 1)
    power = [1.0]
    for n, factor in enumerate(powers):
        for k, value in enumerate(power):
            total[size - n + k] += ROOT2 * factor * value
        power = _product(power, (-0.25, 0.5, -0.25))
    return tuple(total[size:])


def cosine_polynomial(taps: Taps, cosine: Tensor) -> Tensor:
    """Sum of taps[0] + 2 taps[k] cos(kw) at cos w = `cosine`, in powers of it, by Horner's rule."""
    lowest, *others, highest = _powers_of(taps)
    total = cosine * highest
    for power in reversed(others):
        total = total.add_(power).mul_(cosine)
    return total.add_(lowest)


def _powers_of(taps: Taps) -> list[float]:
    """Coefficients over powers of c = cos w, since cos((k + 1)w) = 2c cos(kw) - cos((k - 1)w)."""
    total = [0.0] * len(taps)
    before, now = [0.0, 1.0], [1.0]  # cos(-w) and cos(0w)
    for k, tap in enumerate(taps):
        for power, factor in enumerate(now):
            total[power] += (2 * tap if k else tap) * factor
        doubled = [0.0, *(2 * factor for factor in now)]
        before += [0.0] * (len(doubled) - len(before))
        before, now = now, [x - y for x, y in zip(doubled, before, strict=True)]
    return total


def alternate(taps: Taps) -> Taps:
    """Taps times (-1)^n: `cosine_polynomial` of them is the first one's at -cosine."""
    return tuple(-tap if n % 2 else tap for n, tap in enumerate(taps))


def diamond_kernel(order: int, u: Tensor, v: Tensor) -> Tensor:
    """The diamond kernel T_N = 2 B_N - 1 at frequencies u, v (radians, broadcast), from cosines.

    B_N is the bivariate Bernstein polynomial of the diamond's indicator on the grid of cosines:
    sum_ij f(i, j) b_i(x) b_j(y), b_i the Bernstein polynomials of degree N = `order`,
    x = (1 - cos u)/2, y = (1 - cos v)/2, f = 1, 1/2, 0 for i + j <, =, > N. T is 1 at (0, 0),
    -1 at (pi, pi), flat there to order N, and T(u + pi, v + pi) = -T(u, v) by f's symmetry.
    """
    across, down = (_bernstein(order, (1 - torch.cos(angle)) / 2) for angle in (u, v))
    total = 0.5 * down[0] * across[order]
    below = torch.zeros_like(down[0])
    for j in range(1, order + 1):
        below = below + down[j - 1]
        total = total + across[order - j] * (below + 0.5 * down[j])
    return 2 * total - 1


def _bernstein(order: int, x: Tensor) -> list[Tensor]:
    rising, falling = [torch.ones_like(x)], [torch.ones_like(x)]
    for _ in range(order):
        rising.append(rising[-1] * x)
        falling.append(falling[-1] * (1 - x))
    return [math.comb(order, i) * rising[i] * falling[order - i] for i in range(order + 1)]


@dataclass(frozen=True)
class FilterBank:
    """A pyramid pair and a directional pair, by name; responses are exact at any frequency.

    Attributes:
        pyramid: one of `PYRAMID_FILTERS`.
        directional: one of `DIRECTIONAL_FILTERS`.
        published: use the defective fan filters of the published PromptFusion code: their modulation
            multiplies a whole filter by one sign, so that both channels are low-pass.
    """

    pyramid: str = "maxflat"
    directional: str = "dmaxflat7"
    published: bool = False

    def __post_init__(self) -> None:
        check_choice("pyramid_filter", self.pyramid, PYRAMID_FILTERS)
        check_choice("directional_filter", self.directional, DIRECTIONAL_FILTERS)

    @property
    def pyramid_pair(self) -> tuple[Taps, Taps]:
        """Taps of h (analysis) and g (synthesis), right halves."""
        return maxflat_pair() if self.pyramid == "maxflat" else nine_seven_pair()

    @property
    def order(self) -> int:
        """Degree N of the diamond kernel."""
        return int(self.directional.removeprefix("dmaxflat"))

    def fans(self, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        """Responses of the fan filters at frequencies u, v: analysis 0 and 1, synthesis 0 and 1."""
        kernel = self.kernel(u, v)
        return *self.fan_pair(kernel, dual=False), *self.fan_pair(kernel, dual=True)

    def kernel(self, u: Tensor, v: Tensor) -> Tensor:
        """What replaces cos w in the fan filters: the diamond kernel shifted by pi along v, T(u, v + pi)."""
        return diamond_kernel(self.order, u, v if self.published else v + math.pi)

    def fan_pair(self, kernel: Tensor, dual: bool) -> tuple[Tensor, Tensor]:
        """Responses of fan filters 0 and 1 where `kernel` has these values.

        Filter 0 passes |v| > |u|, filter 1 the rest: it is the other filter of the maxflat pair
        modulated by (-1)^(i+j), which takes the kernel to its negative.

        Args:
            kernel: values of `kernel`, of any shape.
            dual: the synthesis pair instead of the analysis pair; zeros for the published defect.
        """
        h, g = maxflat_pair()
        if self.published:
            scale = 0.0 if dual else 1.0
            return -scale * cosine_polynomial(h, kernel), scale * cosine_polynomial(g, kernel)
        zero, one = (g, h) if dual else (h, g)
        return cosine_polynomial(zero, kernel), cosine_polynomial(alternate(one), kernel)

    def kernel_factors(
        self, size: tuple[int, int], u: tuple[int, int], v: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Matrices (H, K) and (K, W) whose product is `kernel` at all frequencies of a torus of `size`.

        The kernel is a cosine polynomial of degree N: K is some 4N for small `u` and `v`. The product is much
        faster than a DFT or `kernel` itself, also for some rows or columns alone.

        Args:
            size: (H, W), of any relation to the filters'.
            u: coefficients of the kernel's first frequency on (w_row, w_column), so that tap (m, n)
                lies at m u + n v.
            v: coefficients of the second one.
        """
        taps = _kernel_taps(self)
        m, n = torch.meshgrid(*[torch.arange(-self.order, self.order + 1)] * 2, indexing="ij")
        (rows, at_row), (columns, at_column) = (
            torch.unique(m * u[axis] + n * v[axis], return_inverse=True) for axis in (0, 1)
        )
        table = taps.new_zeros(len(rows), len(columns))
        table.index_put_((at_row, at_column), taps, accumulate=True)
        # The taps are even: those in row -p are the conjugate of those in row p.
        left = _waves(size[0], rows[rows >= 0]) * (2.0 - (rows[rows >= 0, None] == 0).double())
        right = table[rows >= 0].to(left.dtype) @ _waves(size[1], columns)
        return torch.cat([left.real, -left.imag]).T.contiguous(), torch.cat([right.real, right.imag])

    def fan_taps(self) -> tuple[Tensor, ...]:
        """Taps of `fans`, square, odd, centred, float64: (29, 43, 43, 29) wide for dmaxflat7.

        The responses are cosine polynomials of degree 2N and 3N, so that an inverse DFT on a grid of
        more than 6N points gives their coefficients to rounding.
        """
        return _fan_taps(self)


def _waves(side: int, multiples: Tensor) -> Tensor:
    """exp(i m w), (multiples, side), at the frequencies w of a torus; whole turns are left out exactly."""
    angle = 2 * math.pi / side * (multiples[:, None] * torch.arange(side)).remainder(side).double()
    return torch.polar(torch.ones_like(angle), angle)


def _grid_taps(
    response: Callable[[Tensor, Tensor], tuple[Tensor, ...]], halves: Sequence[int]
) -> tuple[Tensor, ...]:
    """Taps, (2 half + 1) square, of cosine polynomials, by an inverse DFT on a grid that holds them."""
    size = 64
    angle = 2 * math.pi / size * torch.arange(size, dtype=torch.float64)
    taps = []
    for values, half in zip(response(angle[:, None], angle[None]), halves, strict=True):
        grid = torch.fft.fftshift(torch.fft.ifft2(values).real)
        middle = slice(size // 2 - half, size // 2 + half + 1)
        taps.append(grid[middle, middle].clone())
    return tuple(taps)


@lru_cache(maxsize=16)
@plain_tensors()
def _kernel_taps(bank: FilterBank) -> Tensor:
    return _grid_taps(lambda u, v: (bank.kernel(u, v),), (bank.order,))[0]


@lru_cache(maxsize=16)
@plain_tensors()
def _fan_taps(bank: FilterBank) -> tuple[Tensor, ...]:
    return _grid_taps(bank.fans, [degree * bank.order for degree in (2, 3, 3, 2)])


def check_choice(what: str, name: str, choices: Sequence[str]) -> None:
    """Require that `name` is one of `choices`.

    Raises:
        ValueError: lists the choices and names the nearest.
    """
    if name not in choices:
        near = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.0)
        raise ValueError(f"unknown {what} {name!r}: choose from {', '.join(choices)}; nearest is {near[0]!r}")
