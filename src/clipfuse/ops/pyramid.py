"""The Laplacian pyramid (Burt and Adelson, 1983), and fusions of its details by rule."""

import torch
import torch.nn.functional as F
from torch import Tensor

_ALIKE = 0.02  # difference of brightness from which one band is the brighter one
_SMALLEST = 4  # pixels; smaller images are not halved; four details then fit a network's least side, 32


def laplacian_pyramid(images: Tensor, levels: int) -> tuple[list[Tensor], Tensor]:
    """Split into details, fine to coarse, and a base; `collapse_pyramid` undoes it exactly.

    Args:
        images: (N, C, H, W) of any size.
        levels: number of details; images below 4 px are not split further.
    """
    details: list[Tensor] = []
    while len(details) < levels and min(images.shape[-2:]) >= _SMALLEST:
        small = _halved(images)
        details.append(images - _enlarged(small, images))
        images = small
    return details, images


def collapse_pyramid(details: list[Tensor], base: Tensor) -> Tensor:
    """Return the (N, C, H, W) images."""
    for detail in reversed(details):
        base = detail + _enlarged(base, detail)
    return base


def pyramid_fusion(infrared: Tensor, visible: Tensor, levels: int = 4) -> Tensor:
    """Fuse by Laplacian pyramids: the greater detail at each place and scale, the average of the bases.

    Source: Burt and Adelson, IEEE Trans. Communications 1983; choosing by magnitude: Toet, Pattern
    Recognition Letters 1989.

    Args:
        infrared: (N, C, H, W).
        visible: the same shape.
        levels: scales of detail; see `laplacian_pyramid`.

    Returns:
        (N, C, H, W), for bands in [0, 1] with values a little outside.
    """
    (thermal, warm), (seen, color) = (laplacian_pyramid(band, levels) for band in (infrared, visible))
    return collapse_pyramid(_greater(thermal, seen), (warm + color) / 2)


def energy_fusion(
    infrared: Tensor, visible: Tensor, detail_gain: float = 1.0, base_gain: float = 1.0, levels: int = 4
) -> Tensor:
    """Fuse by Laplacian pyramids: details by their local energy, the average b of the bases.

    base = mean(b) + base_gain (b - mean(b))
    detail = detail_gain min(2, sqrt(E / E_m)) m, m = (E_I d_I + E_V d_V) / (E_I + E_V)
    E = E_s + E_w - C^2 / E_s, s the stronger and w the weaker band

    The energies E of the details d and of their mixture m, and C of their product, are means under a binomial
    window of 5 px, plus the square of a quarter of a grey level. Each band has the share of its energy in
    the mixture, which changes smoothly from one to the other; a choice of the greater makes edges that
    neither has. The mixture is then scaled, by at most 2, to the energy of the stronger band and of what that
    does not explain of the weaker one: with gains of 1 the fusion of an image with itself is the image.

    Source: salience by local energy after Burt and Kolczynski, ICCV 1993; shares everywhere instead of their
    choice, and the energy of both, are own design.

    Args:
        infrared: (N, C, H, W).
        visible: the same shape.
        detail_gain: gain of the details.
        base_gain: gain of the average base about its mean.
        levels: scales of detail; see `laplacian_pyramid`.

    Returns:
        (N, C, H, W), for bands in [0, 1] with values a little outside.
    """
    both, bases = laplacian_pyramid(torch.cat([infrared, visible], dim=1), levels)
    details = []
    for first, second in (detail.chunk(2, dim=1) for detail in both):
        products = torch.cat([first * first, second * second, first * second], dim=1)
        warmth, light, common = _local(products).chunk(3, dim=1)
        total = warmth + light
        mixed = (warmth * first + light * second) / total
        energy = total - common.square() / warmth.maximum(light)
        kept = (energy / _local(mixed * mixed)).sqrt().clamp(max=2)
        details.append(detail_gain * kept * mixed)
    warm, color = bases.chunk(2, dim=1)
    base = (warm + color) / 2
    level = base.mean((2, 3), keepdim=True)
    return collapse_pyramid(details, level + base_gain * (base - level))


def base_weight(infrared: Tensor, visible: Tensor) -> Tensor:
    """Return the infrared weight of a base that is an average, by day the brighter band, and warm where hot.

    w = (1 - t s) / 2, s the sign of V - I, smoothed over 0.02;
    t rises smoothly from 0 to 1 as r = mean(V - I) / mean|V - I| goes from 0.7 to 0.95;
    weight = w + (1 - w) h, h = sigmoid((I - mean I - 0.3) / 0.04) sigmoid((I - V) / 0.05).

    r is 1 where the visible band is the brighter one everywhere: by day the image is as bright as the
    visible band, as the eye expects it. At night, and where neither band is the brighter one, it is the
    average. h keeps what is far warmer than the scene as bright as it is: a car that is dark to the eye does
    not turn gray. Own design; what each part costs by `balanced-1`: experiments/second_recipe.

    Args:
        infrared: (N, 1, H, W) in [0, 1], low-pass.
        visible: of the same shape.

    Returns:
        (N, 1, H, W) in [0.01, 0.99].
    """
    ahead = visible - infrared
    size = (ahead.square() + _ALIKE**2).sqrt()
    ratio = ahead.mean((2, 3), keepdim=True) / (size - _ALIKE).mean((2, 3), keepdim=True).clamp(min=1e-4)
    day = ((ratio - 0.7) / 0.25).clamp(0, 1)
    weight = 0.5 - day.square() * (1.5 - day) * ahead / size
    above = infrared - infrared.mean((2, 3), keepdim=True)
    hot = torch.sigmoid((above - 0.3) / 0.04) * torch.sigmoid(-ahead / 0.05)
    return (weight + (1 - weight) * hot).clamp(0.01, 0.99)


def _local(products: Tensor) -> Tensor:
    return binomial(products) + (0.25 / 255) ** 2


def _greater(first: list[Tensor], second: list[Tensor]) -> list[Tensor]:
    return [torch.where(a.abs() >= b.abs(), a, b) for a, b in zip(first, second, strict=True)]


def _halved(images: Tensor) -> Tensor:
    # As kornia's pyrdown, which fixes the size when it is exported.
    height, width = images.shape[-2:]
    return F.interpolate(binomial(images), (height // 2, width // 2), mode="bilinear", align_corners=False)


def binomial(images: Tensor) -> Tensor:
    """Blur (N, C, H, W), of sides above 2 px, by [1 4 6 4 1] / 16 along both; mirrored outside."""
    # By shifted sums: a convolution of planes apart is slower, and what pads runs on one thread per plane.
    for dim, border in ((3, (2, 2, 0, 0)), (2, (0, 0, 2, 2))):
        padded, side = F.pad(images, border, mode="reflect"), images.shape[dim]
        outer, inner, middle, after, last = (padded.narrow(dim, shift, side) for shift in range(5))
        images = ((outer + last) / 16).add_(inner + after, alpha=0.25).add_(middle, alpha=0.375)
    return images


def _enlarged(small: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(small, like.shape[-2:], mode="bilinear", align_corners=False)


def detail_maximum(infrared: Tensor, visible: Tensor, gain: float = 1.2, lift: float = 0.75) -> Tensor:
    """Fuse by rule: keep the texture of both bands and make warm targets stand out. Own design.

    Of each detail of four levels the one of greater magnitude is taken, times `gain`. The base is that of
    the visible band, and where this is dark up to 0.8 of the infrared one. Warm targets, which are bright in
    the infrared band and brighter than their surroundings, are lifted to `lift` or to their own level.

    Args:
        infrared: (N, 1, H, W) in [0, 1].
        visible: the same shape.
        gain: gain of the details.
        lift: least level of a target, in [0, 1].

    Returns:
        (N, 1, H, W) in [0, 1].
    """
    thermal, warm = laplacian_pyramid(infrared, 4)
    seen, color = laplacian_pyramid(visible, 4)
    details = [gain * detail for detail in _greater(thermal, seen)]
    dark = 1 - (3.2 * color - 0.3).clamp(0, 1)
    fused = collapse_pyramid(details, color + 0.8 * dark * (warm - color))
    texture = 0.3 * (visible - soften(visible, 1 / 112))
    target = torch.maximum(fused, 0.3 * visible + 0.7 * infrared.clamp(min=lift) + texture)
    return (fused + warm_targets(infrared) * (target - fused)).clamp(0, 1)


def fusions_by_rule(infrared: Tensor, visible: Tensor) -> dict[str, Tensor]:
    """Return both bands, their average and maximum, and `detail_maximum` as `composite`, by name."""
    return {
        **{"infrared": infrared, "visible": visible, "average": (infrared + visible) / 2},
        **{"maximum": infrared.maximum(visible), "composite": detail_maximum(infrared, visible)},
    }


def warm_targets(infrared: Tensor) -> Tensor:
    """Guess a soft mask of targets: bright, and brighter than their surroundings. Own design.

    Args:
        infrared: (N, 1, H, W) in [0, 1].

    Returns:
        (N, 1, H, W) in [0, 1].
    """
    stands_out = torch.sigmoid((infrared - soften(infrared, 10 / 112) - 0.14) / 0.04)
    return soften(stands_out * torch.sigmoid((infrared - 0.55) / 0.05), 0.6 / 112)


def soften(images: Tensor, sigma: float | Tensor, widest: float | None = None) -> Tensor:
    """Blur by a Gaussian, mirrored at the border.

    Args:
        images: (N, C, H, W).
        sigma: share of the shorter side; one for all, or (N,).
        widest: upper limit of sigma; the window reaches three times as far to each side, within the image, so
            that no image of a batch depends on the others.

    Raises:
        ValueError: several sigmas without `widest`.
    """
    if widest is None:
        if isinstance(sigma, Tensor):
            raise ValueError("several values of sigma need `widest`, their upper limit")
        widest = sigma
    side = min(images.shape[-2:])
    own = sigma if isinstance(sigma, Tensor) else images.new_full((), sigma)
    pixels = (own.to(images) * side).expand(len(images))
    reach = min(int(3 * widest * side + 0.5), side - 1)
    if reach < 1:
        return images
    from kornia.filters import gaussian_blur2d  # here: it takes long to import, and no network needs it

    return gaussian_blur2d(images, (2 * reach + 1,) * 2, pixels[:, None].repeat(1, 2))
